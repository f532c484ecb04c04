//! An authenticated tunnel and what is known of its end. Holds no claim: those are the registry's, and its guards.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use culvert_certs::Identity;
use culvert_protocol::hello::{FromRelay, Hello, Holder, InstanceId, UnixMillis};
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::{CloseCode, CloseReason, Transport, Tunnel};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Peer;

/// What other tasks may have to say to a session at once: one message for each claim that it can hold.
const MAILBOX: usize = super::registry::CLAIMS_PER_IDENTITY;

/// As much of a name that a client gives itself as is kept and shown.
const SHOWN: usize = 64;

/// One tunnel's number, never used again while the relay runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// From the verified certificate and from nothing that was said.
    pub(crate) identity: Identity,
    /// What the developer's machine calls itself; printable, and proof of nothing.
    pub(crate) host: String,
    /// The account that the client runs under, likewise.
    pub(crate) user: Option<String>,
    /// Which start of the client this is: one process may have several tunnels.
    pub(crate) instance: InstanceId,
    pub(crate) tunnel: Tunnel,
    pub(crate) transport: Transport,
    pub(crate) since: SystemTime,
    /// Milliseconds since 1970 of the last word from the client.
    last_seen: AtomicU64,
    mail: mpsc::Sender<FromRelay>,
    /// Until the session's own task fetches it.
    mailbox: Mutex<Option<mpsc::Receiver<FromRelay>>>,
}

/// A claim in force, as routes lead to it.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The client's own number for it, which tells it which app a request is for.
    pub(crate) number: u64,
    pub(crate) intercept: Intercept,
    /// One more than that of the claim that this one took over from.
    pub(crate) generation: u64,
    /// Since when its owner has held it, over however many sessions.
    pub(crate) since: SystemTime,
    pub(crate) session: Arc<Session>,
}

impl Session {
    pub(super) fn new(peer: Peer, hello: &Hello) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Peer { tunnel, identity } = peer;
        let (mail, mailbox) = mpsc::channel(MAILBOX);
        let now = SystemTime::now();
        Arc::new(Self {
            id: SessionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            identity,
            host: printable(&hello.host),
            user: hello.user.as_deref().map(printable),
            instance: hello.instance,
            transport: tunnel.transport(),
            tunnel,
            since: now,
            last_seen: AtomicU64::new(UnixMillis::from(now).0),
            mail,
            mailbox: Mutex::new(Some(mailbox)),
        })
    }

    /// Says something to the client from another task. Does not wait: a client that lets its mail pile up does not read,
    /// and could not be told anything else either.
    pub(crate) fn tell(&self, message: FromRelay) {
        if self.mail.try_send(message).is_err() {
            self.tunnel.close(&CloseReason::new(CloseCode::Protocol, "control messages are not being read"));
        }
    }

    pub(super) fn mailbox(&self) -> Option<mpsc::Receiver<FromRelay>> {
        self.mailbox.lock().take()
    }

    pub(super) fn seen(&self) {
        self.last_seen.store(UnixMillis::from(SystemTime::now()).0, Ordering::Relaxed);
    }

    pub(crate) fn last_seen(&self) -> UnixMillis {
        UnixMillis(self.last_seen.load(Ordering::Relaxed))
    }

    /// Whom a conflict or a list names.
    pub(crate) fn holder(&self, since: SystemTime) -> Holder {
        Holder {
            owner: self.identity.name.to_string(),
            host: self.host.clone(),
            since: since.into(),
            last_seen: self.last_seen(),
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A peer's text as a log or somebody else's terminal may show it.
fn printable(text: &str) -> String {
    let shown = |char: char| if char.is_alphanumeric() || " .-_@()".contains(char) { char } else { '?' };
    text.trim().chars().take(SHOWN).map(shown).collect()
}
