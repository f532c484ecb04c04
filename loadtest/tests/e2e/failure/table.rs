//! The table of docs/failure.md as a function: what a caller gets, and when, by what happens and where its request is then. Pure;
//! nothing here makes anything happen.

use std::time::Duration;

use culvert_client::dial::Rungs;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing passes any more, for longer than a tunnel is kept.
    CablePulled,
    /// The same from the client to the relay alone.
    UpDead,
    /// The same from the relay to the client alone.
    DownDead,
    /// Nothing passes for a few seconds.
    CableBack,
    /// `kill -9` of the client.
    ClientKilled,
    /// SIGSTOP of the client, for longer than a tunnel is kept.
    ClientStopped,
    /// SIGSTOP of the client, and SIGCONT a few seconds later.
    ClientContinued,
    /// `kill -9`, and another process with the same claims at once.
    ClientRestarted,
    /// SIGTERM of the client.
    ClientLeaves,
    /// Nobody listens for the app's port any more, and its connections are closed.
    AppDown,
    /// One request of several makes it think, at a breakpoint.
    AppThinks,
    /// The app does not run for a while: the system accepts for it, and it reads nothing.
    AppStopped,
    RelayKilled,
    /// SIGTERM of the relay.
    RelayLeaves,
}

/// Where a request is when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It comes once the event can be known.
    Before,
    /// The relay has sent its head, and has had no word about it.
    HeadSent,
    /// The app has it, and thinks.
    Confirmed,
    /// The app has half its body.
    Uploading,
    /// The caller has half its answer.
    Answering,
    /// It comes when everything is well again.
    After,
}

/// `--on-unreachable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Upstream,
    Hold,
    Refuse,
}

/// One caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) event: Event,
    pub(super) stage: Stage,
    pub(super) policy: Policy,
    /// Its method changes nothing.
    pub(super) safe: bool,
    pub(super) transport: Rungs,
}

/// What a caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The app's whole answer.
    App,
    /// The upstream's whole answer.
    Upstream,
    /// 503 `developer_unreachable`, and when to come again.
    Unavailable,
    /// 502 `tunnel_lost`.
    TunnelLost,
    /// 502 `app_no_answer`.
    AppNoAnswer,
    /// A head, and a body without its end.
    Cut,
    /// No answer: the connection is refused or reset.
    Reset,
}

/// From the event on, or from the request if that comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    AtOnce,
    /// When a lane comes in doubt and a request leaves it: 3 s.
    InDoubt,
    /// And after it was held for a developer who does not come.
    Held,
    /// When a silent tunnel is given up: 12 s.
    GivenUp,
    /// When whoever it waits for goes on.
    Later,
}

/// How long the developer is waited for who does not come back.
const HELD: u64 = 3;

pub(super) fn expected(cell: Cell) -> (&'static [Outcome], When) {
    use Event::*;
    // The system closes the TCP connections of a process that is gone; over QUIC nobody says a word.
    let told = cell.transport != Rungs::Quic;
    match cell.event {
        ClientLeaves if cell.stage == Stage::After => (&[Outcome::Upstream], When::AtOnce),
        _ if cell.stage == Stage::After => (&[Outcome::App], When::AtOnce),
        CablePulled | UpDead | DownDead | ClientStopped => lost(cell, When::InDoubt, When::GivenUp),
        ClientKilled if told => lost(cell, When::AtOnce, When::AtOnce),
        ClientKilled => lost(cell, When::InDoubt, When::GivenUp),
        CableBack | ClientContinued => match cell.stage {
            Stage::Before | Stage::HeadSent if cell.policy == Policy::Hold => (&[Outcome::App], When::Later),
            Stage::Before | Stage::HeadSent => lost(cell, When::InDoubt, When::GivenUp),
            _ => (&[Outcome::App], When::Later),
        },
        ClientRestarted => match cell.stage {
            Stage::Before => (&[Outcome::App], When::AtOnce),
            Stage::HeadSent if cell.policy == Policy::Hold => (&[Outcome::App], When::Later),
            Stage::Confirmed if cell.policy == Policy::Hold && cell.safe => (&[Outcome::App], When::Later),
            _ if told => lost(cell, When::AtOnce, When::AtOnce),
            _ => lost(cell, When::InDoubt, When::GivenUp),
        },
        ClientLeaves => match cell.stage {
            Stage::Before => (&[Outcome::Upstream], When::AtOnce),
            Stage::HeadSent => (refused_or_served(cell.policy), When::Later),
            _ => (&[Outcome::App], When::Later),
        },
        AppDown => match (cell.stage, cell.policy) {
            (Stage::Before | Stage::HeadSent, Policy::Refuse) => (&[Outcome::Unavailable], When::AtOnce),
            (Stage::Before | Stage::HeadSent, _) => (&[Outcome::Upstream], When::AtOnce),
            (Stage::Confirmed | Stage::Uploading, _) => (&[Outcome::AppNoAnswer], When::AtOnce),
            (Stage::Answering | Stage::After, _) => (&[Outcome::Cut], When::AtOnce),
        },
        AppThinks if cell.stage == Stage::Before => (&[Outcome::App], When::AtOnce),
        AppThinks | AppStopped => (&[Outcome::App], When::Later),
        RelayKilled => match cell.stage {
            Stage::Answering => (&[Outcome::Cut], When::AtOnce),
            _ => (&[Outcome::Reset], When::AtOnce),
        },
        RelayLeaves => match cell.stage {
            Stage::Before => (&[Outcome::Reset], When::AtOnce),
            Stage::HeadSent => (refused_or_served(cell.policy), When::Later),
            _ => (&[Outcome::App], When::Later),
        },
    }
}

/// The developer is not there, which shows at `first`, and is believed at `last`.
fn lost(cell: Cell, first: When, last: When) -> (&'static [Outcome], When) {
    let elsewhere = |when| match cell.policy {
        Policy::Upstream => (&[Outcome::Upstream][..], when),
        // By the time that a silent tunnel is given up nobody is waited for any more.
        Policy::Hold if when == When::GivenUp => (&[Outcome::Upstream][..], when),
        Policy::Hold => (&[Outcome::Upstream][..], When::Held),
        Policy::Refuse => (&[Outcome::Unavailable][..], when),
    };
    match cell.stage {
        Stage::Before => elsewhere(When::AtOnce),
        // Nobody waited for a confirmation where there is nowhere else to go.
        Stage::HeadSent if cell.policy == Policy::Refuse && !cell.safe => (&[Outcome::TunnelLost], first),
        Stage::HeadSent => elsewhere(first),
        Stage::Confirmed if cell.safe => elsewhere(last),
        Stage::Confirmed | Stage::Uploading => (&[Outcome::TunnelLost], last),
        Stage::Answering | Stage::After => (&[Outcome::Cut], last),
    }
}

/// Whoever leaves answers what it has, and refuses what it reads afterwards.
fn refused_or_served(policy: Policy) -> &'static [Outcome] {
    match policy {
        Policy::Refuse => &[Outcome::App, Outcome::Unavailable],
        Policy::Upstream | Policy::Hold => &[Outcome::App, Outcome::Upstream],
    }
}

impl Event {
    /// Nobody hears that it happened.
    pub(super) fn is_silence(self) -> bool {
        use Event::*;
        matches!(self, CablePulled | UpDead | DownDead | CableBack | ClientStopped | ClientContinued)
    }

    /// Whether who is held is waited for in vain.
    fn is_for_good(self) -> bool {
        !matches!(self, Self::CableBack | Self::ClientContinued | Self::ClientRestarted)
    }
}

impl Policy {
    pub(super) const ALL: [Self; 3] = [Self::Upstream, Self::Hold, Self::Refuse];

    pub(super) fn flag(self, event: Event) -> String {
        match self {
            Self::Upstream => "upstream".to_owned(),
            Self::Hold if event.is_for_good() => format!("hold:{HELD}s"),
            Self::Hold => "hold:1m".to_owned(),
            Self::Refuse => "503".to_owned(),
        }
    }
}

impl When {
    /// What is promised, with what a busy machine adds; and not before something else can have been the reason.
    pub(super) fn allows(self, after: Duration) -> bool {
        let (from, to) = match self {
            Self::AtOnce => (0, 3),
            Self::InDoubt => (0, 3 + 2),
            Self::Held => (0, 3 + HELD + 2),
            Self::GivenUp => (8, 12 + 5),
            Self::Later => return true,
        };
        (from..to).contains(&after.as_secs())
    }
}

impl Cell {
    pub(super) fn path(&self) -> String {
        let Self { stage, policy, safe, .. } = self;
        format!("/{stage:?}/{policy:?}/{}/{}", if *safe { "safe" } else { "unsafe" }, self.user())
    }

    /// Whose requests a claim takes: each transport and policy has a claim, and a client process, of its own.
    pub(super) fn user(&self) -> String {
        user(self.transport, self.policy)
    }

    pub(super) fn method(&self) -> &'static str {
        if self.safe { "GET" } else { "POST" }
    }
}

pub(super) fn user(transport: Rungs, policy: Policy) -> String {
    format!("{}-{policy:?}", rung(transport)).to_lowercase()
}

pub(super) fn rung(transport: Rungs) -> &'static str {
    match transport {
        Rungs::Quic => "quic",
        Rungs::Tls => "tls",
        Rungs::WebSocket => "ws",
        Rungs::Auto => "auto",
    }
}
