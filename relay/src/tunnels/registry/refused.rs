//! Why a session or a claim was not let in, and how its client is told.

use culvert_protocol::hello::{DeniedCode, FromRelay, Holder};
use culvert_protocol::intercept::{Matcher, ServiceName};

use crate::config::nearest;
use crate::policy::Denied;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{} on {} holds {with} already", holder.owner, holder.host)]
    Conflict { with: Matcher, holder: Holder },
    #[error("no service `{asked}` here: {advice}")]
    NoSuchService { asked: ServiceName, advice: String },
    #[error(transparent)]
    NotAllowed(#[from] Denied),
    #[error("too many claims: leave some first")]
    TooManyClaims,
    #[error("your claims change too fast: 20 a second are taken, after the first few hundred")]
    TooFast,
    /// To the claim of a later start of the same developer's client.
    #[error("a newer session on {} holds it", .0.host)]
    Superseded(Holder),
    #[error("{}", super::killing::WHY)]
    Killed,
    #[error("this tunnel carries that claim already")]
    Carried,
    #[error("the time that it was asked for is over")]
    Expired,
    #[error("too many tunnels")]
    TooManySessions,
}

impl Refused {
    pub(super) fn no_such_service<'a>(
        asked: &ServiceName,
        services: impl Iterator<Item = &'a ServiceName>,
    ) -> Self {
        /// As many as fit on a terminal.
        const LISTED: usize = 20;
        let mut names: Vec<&str> = services.map(ServiceName::as_str).collect();
        names.sort_unstable();
        let advice = match nearest(asked.as_str(), names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if names.len() > LISTED => format!("there are {} others, see culvert ls", names.len()),
            None => format!("there is {}", names.join(", ")),
        };
        Self::NoSuchService { asked: asked.clone(), advice }
    }

    /// What the client is told of its claim.
    pub(crate) fn denial(&self, claim: u64) -> FromRelay {
        let (code, holder) = match self {
            Self::Superseded(by) => return FromRelay::Superseded { claim, by: by.clone() },
            Self::Carried => (DeniedCode::Invalid, None),
            Self::Killed => (DeniedCode::NotAllowed, None),
            Self::Conflict { holder, .. } => (DeniedCode::Conflict, Some(holder.clone())),
            Self::NoSuchService { .. } => (DeniedCode::NoSuchService, None),
            Self::NotAllowed(_) => (DeniedCode::NotAllowed, None),
            Self::TooManyClaims | Self::TooManySessions => (DeniedCode::TooMany, None),
            Self::TooFast => (DeniedCode::TooFast, None),
            Self::Expired => (DeniedCode::Expired, None),
        };
        FromRelay::Denied { claim, code, message: self.to_string(), holder }
    }

    /// For metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::NoSuchService { .. } => "no_such_service",
            Self::NotAllowed(_) => "not_allowed",
            Self::TooManyClaims | Self::TooManySessions => "too_many",
            Self::TooFast => "too_fast",
            Self::Expired => "expired",
            Self::Superseded(_) => "superseded",
            Self::Killed => "killed",
            Self::Carried => "invalid",
        }
    }
}
