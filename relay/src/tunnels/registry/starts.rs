//! Which of two processes of one developer is the later one. Whoever was started last takes over, and whoever was stopped, or
//! had no network, while that happened does not take it back.

use std::time::SystemTime;

use culvert_certs::Identity;
use culvert_protocol::hello::{Hello, Stamp, UnixMillis};

use super::Registry;
use crate::tunnels::session::{Session, Start};

impl Registry {
    /// The client's start, as the first relay that welcomed it has said, or now. Later than any other of the owner's that is here:
    /// two replicas' clocks may differ.
    pub(crate) fn start(&self, identity: &Identity, hello: &Hello) -> Start {
        let (owner, instance) = (&identity.name, hello.instance);
        let told = hello.began.as_ref().and_then(|stamp| self.stamps.started(owner, instance, stamp));
        told.unwrap_or_else(|| {
            let held = self.held.lock();
            let others = held.sessions.values().filter(|session| session.identity.name == *owner);
            let others = others.filter(|session| session.start.instance != instance);
            let latest = others.map(|session| session.start.at).max();
            let at = UnixMillis::from(SystemTime::now());
            let at = latest.map_or(at, |latest| at.max(UnixMillis(latest.0 + 1)));
            Start { at, relay: self.stamps.relay().to_owned(), instance }
        })
    }

    /// What a session's client is to say of that in every further hello.
    pub(crate) fn began(&self, session: &Session) -> Stamp {
        self.stamps.start(&session.identity.name, &session.start)
    }
}
