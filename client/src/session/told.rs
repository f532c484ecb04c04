//! What a session lets others know: whoever waits for it, whoever reads the screen, whoever asks for its status. Changes nothing
//! of what it is.

use std::sync::Arc;
use std::time::SystemTime;

use culvert_protocol::hello::UnixMillis;
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::Transport;
use tokio::time::Instant;

use super::links::{Held, Link, Stage};
use super::{Ask, Life, Ready, SessionError};
use crate::status::{ClaimStatus, NotUsed, ReplicaStatus, Status, TunnelStatus, UdpBuffersStatus};

impl Life {
    /// Once per turn: what has changed.
    pub(super) fn show(&mut self) {
        let before = self.state.borrow().clone();
        if !self.links.is_in_force() {
            self.ready_due = None;
            if before.is_some() {
                self.state.send_replace(None);
                let why = self.trouble.clone().unwrap_or_else(|| "it is gone".to_owned());
                self.complain(|| format!("the relay is lost: {why}; connecting again"), "lost");
            }
            return;
        }
        let waiting = self.ready_due.is_some_and(|due| Instant::now() < due);
        if before.is_none() && waiting && !self.links.is_in_force_everywhere() {
            return;
        }
        self.ready_due = None;
        let first = self.links.iter().find_map(|link| Some((link, link.best()?)));
        let Some((link, lane)) = first else { return };
        let transport = lane.rung();
        let how = lane.how.clone();
        let ready = Ready {
            relay: before.as_ref().map_or_else(|| link.relay.clone(), |before| before.relay.clone()),
            identity: self.identity.clone(),
            transport,
            listen: self.listen.clone(),
        };
        match before {
            Some(before) if *before == ready => return,
            Some(before) if before.transport != transport => {
                self.shared.screen.notice("moved", &format!("the tunnel goes over {how} now"));
            }
            Some(_) => {}
            None => self.connected(&how),
        }
        self.state.send_replace(Some(Arc::new(ready)));
    }

    fn connected(&mut self, how: &str) {
        let (relay, identity) = (self.shared.relay(), &self.identity);
        let replicas = match self.links.iter().filter(|link| link.best().is_some()).count() {
            0 | 1 => String::new(),
            several => format!(" ({several} replicas)"),
        };
        let screen = &self.shared.screen;
        screen.notice("connected", &format!("connected to {relay}{replicas} as {identity} over {how}"));
        for (claim, listen) in self.shared.claims.iter().zip(&self.listen) {
            let Intercept { service, matcher, .. } = &claim.intercept;
            let listen = listen.join(", ");
            screen.notice("intercepting", &format!("{service} ({listen}): {matcher} -> {}", claim.app));
        }
        (self.complained, self.was_ready) = (false, true);
    }

    /// Once for each time that the relay is away, however often it is tried.
    pub(super) fn complain(&mut self, what: impl FnOnce() -> String, event: &'static str) {
        if !std::mem::replace(&mut self.complained, true) {
            self.shared.screen.notice(event, &what());
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "every turn of a session may end it")]
    pub(super) fn answer(&self, answer: Ask) -> Result<(), SessionError> {
        // Whoever asked may have gone.
        let _ = answer.send(self.status());
        Ok(())
    }

    fn status(&self) -> Status {
        let in_force = self.state.borrow().is_some();
        let claims = (1..).zip(&self.shared.claims).map(|(number, claim)| ClaimStatus {
            name: claim.intercept.name.to_string(),
            service: claim.intercept.service.to_string(),
            matcher: claim.intercept.matcher.to_string(),
            app: claim.app.to_string(),
            on_unreachable: claim.intercept.on_unreachable.to_string(),
            in_force,
            expires_ms: self.shared.expires(number).map(|end| end.0),
        });
        Status {
            process: std::process::id(),
            relay: self.shared.relay().to_string(),
            identity: (!self.identity.is_empty()).then(|| self.identity.clone()),
            in_force,
            trouble: self.trouble.clone(),
            since_ms: millis(self.since),
            replicas: self.links.iter().map(replica).collect(),
            claims: claims.collect(),
        }
    }
}

fn replica(link: &Link) -> ReplicaStatus {
    let rung = link.rung();
    let missed = link.missed.iter().filter(|(missed, _)| Some(*missed) != rung);
    let not_used = missed.map(|(rung, why)| NotUsed { transport: rung.to_string(), why: why.clone() });
    ReplicaStatus {
        id: link.relay.clone(),
        transport: rung.as_ref().map(Transport::to_string),
        not_used: not_used.collect(),
        tunnels: link.lanes.iter().map(tunnel).collect(),
    }
}

fn tunnel(lane: &Held) -> TunnelStatus {
    let state = match lane.stage {
        Stage::Leaving => "leaving",
        Stage::Joining | Stage::InForce if lane.doubtful => "in doubt",
        Stage::Joining => "joining",
        Stage::InForce => "in force",
    };
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let traffic = lane.tunnel.traffic();
    TunnelStatus {
        transport: lane.rung().to_string(),
        state: state.to_owned(),
        address: lane.address.map(|address| address.to_string()),
        rtt_us: lane.tunnel.rtt().and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
        since_ms: millis(lane.since),
        sent_bytes: traffic.sent,
        received_bytes: traffic.received,
        udp_buffers: lane.udp.map(|udp| UdpBuffersStatus {
            receive_bytes: bytes(udp.receive),
            send_bytes: bytes(udp.send),
            wanted_bytes: bytes(udp.wanted),
        }),
    }
}

fn millis(time: SystemTime) -> u64 {
    UnixMillis::from(time).0
}
