//! Why a claim, or one tunnel's part in it, came to its end, and whether its owner is expected back.

use std::time::Duration;

use culvert_protocol::intercept::{Intercept, OnUnreachable};
use tracing::{debug, info};

use crate::tunnels::claim::Claim;

/// How long callers who asked for a 503 instead of the upstream get one after a developer was lost.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client gave it back.
    Withdrawn,
    /// The client went, and said so.
    Left,
    /// A newer session of the same owner took it over.
    Superseded,
    /// The tunnel ended without a word that it would.
    Lost,
    /// The client did what no client does.
    Broken,
    /// The time that it was asked for is over.
    Expired,
    /// Another owner's claim turned out to be the earlier one.
    Denied,
    /// Whoever runs the relay wanted it.
    Killed,
    /// The relay is going.
    Stopped,
}

impl Ended {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::Left => "left",
            Self::Superseded => "superseded",
            Self::Lost => "tunnel lost",
            Self::Broken => "protocol",
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Killed => "killed",
            Self::Stopped => "the relay is stopping",
        }
    }

    /// How long the claim stays after its last tunnel. Only who was lost comes back.
    pub(super) fn expected_back(self, policy: OnUnreachable) -> Option<Duration> {
        match (self, policy) {
            (Self::Lost, OnUnreachable::Hold(patience)) => Some(patience.duration()),
            (Self::Lost, OnUnreachable::Status503) => Some(REMEMBERED),
            _ => None,
        }
    }

    /// One line for each claim that ends; no more than a debug one for a client in a loop.
    pub(super) fn log(self, claim: &Claim, quiet: bool) {
        let Intercept { service, name, matcher, .. } = &claim.intercept;
        let (owner, generation, reason) = (&claim.owner, claim.generation, self.label());
        if quiet {
            debug!(%service, %name, %matcher, %owner, generation, reason, "a claim is over");
        } else {
            info!(%service, %name, %matcher, %owner, generation, reason, "a claim is over");
        }
    }
}
