//! What the operator sees of claims and tunnels, and how one of them is ended from outside.

use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::{DeniedCode, FromRelay};
use culvert_protocol::tunnel::{CloseCode, CloseReason};
use tokio::time::Instant;
use tracing::info;

use super::entry::Entry;
use super::{Ended, Registry};
use crate::operator::{ClaimOverview, Killed, Overview, TunnelOverview};
use crate::tunnels::session::Session;

pub(super) const WHY: &str = "ended by whoever runs the relay";

/// For how long a client that was away when it was killed is told so when it comes back.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

impl Registry {
    pub(crate) fn overview(&self) -> Overview {
        let held = self.held.lock();
        let mut claims: Vec<_> = held.claims.iter().map(claim).collect();
        let mut tunnels: Vec<_> = held.sessions.values().map(|session| tunnel(session)).collect();
        drop(held);
        claims.sort_by(|one, other| (&one.service, &one.name).cmp(&(&other.service, &other.name)));
        tunnels.sort_by_key(|tunnel| tunnel.id);
        Overview { relay: self.stamps.relay().to_owned(), claims, tunnels }
    }

    /// Ends the client process that has the tunnel of this id, with all of its tunnels and claims; where there is none, takes out
    /// every claim of this name. Its client is told, at once or when it comes back, and that start of it claims nothing any more.
    pub(crate) fn kill(&self, what: &str) -> Killed {
        let mut held = self.held.lock();
        let of_id = |session: &&Arc<Session>| session.id.to_string() == what;
        let client = held.sessions.values().find(of_id).cloned();
        let of_client = |session: &Session| {
            client.as_ref().is_some_and(|client| {
                session.start.instance == client.start.instance
                    && session.identity.name == client.identity.name
            })
        };
        let meant = |Entry { claim, .. }: &&Entry| match &client {
            Some(client) => {
                claim.start.instance == client.start.instance && claim.owner == client.identity.name
            }
            None => claim.intercept.name.as_str() == what,
        };
        let fences: Vec<_> = held.claims.iter().filter(meant).map(|entry| entry.claim.fence).collect();
        let killed: Vec<_> = fences.into_iter().filter_map(|fence| held.claims.remove(fence)).collect();
        let now = Instant::now();
        held.killed.retain(|_, until| *until > now);
        let starts = killed.iter().map(|Entry { claim, .. }| (claim.owner.clone(), claim.start.instance));
        held.killed.extend(starts.map(|start| (start, now + REMEMBERED)));
        for entry in &killed {
            self.publish(&held, &entry.claim.intercept.service, &[entry], None);
        }
        let tunnels: Vec<_> = held.sessions.values().filter(|session| of_client(session)).cloned().collect();
        drop(held);

        for Entry { claim, .. } in &killed {
            for lane in claim.lanes() {
                let (claim, message) = (lane.number, WHY.to_owned());
                lane.session.tell(FromRelay::Denied {
                    claim,
                    code: DeniedCode::NotAllowed,
                    message,
                    holder: None,
                });
            }
            claim.wake();
            Ended::Killed.log(claim, false);
        }
        for session in &tunnels {
            info!(session = %session.id, identity = %session.identity.name, "killed");
            session.tunnel.close(&CloseReason::new(CloseCode::Denied, WHY));
        }
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Killed { claims: count(killed.len()), tunnels: count(tunnels.len()) }
    }
}

fn claim(entry: &Entry) -> ClaimOverview {
    let claim = &entry.claim;
    ClaimOverview {
        service: claim.intercept.service.to_string(),
        name: claim.intercept.name.to_string(),
        matcher: claim.intercept.matcher.to_string(),
        owner: claim.owner.to_string(),
        host: claim.holder().host,
        on_unreachable: claim.intercept.on_unreachable.to_string(),
        generation: claim.generation,
        since_ms: claim.since.into(),
        expires_ms: claim.expires.map(Into::into),
        tunnels: claim.lanes().iter().map(|lane| lane.session.id.number()).collect(),
    }
}

fn tunnel(session: &Session) -> TunnelOverview {
    TunnelOverview {
        id: session.id.number(),
        owner: session.identity.name.to_string(),
        host: session.host.clone(),
        transport: session.transport.to_string(),
        since_ms: session.since.into(),
        last_seen_ms: session.last_seen(),
        in_doubt: session.doubted().is_some(),
        exchanges: u64::try_from(session.load.open()).unwrap_or(u64::MAX),
    }
}
