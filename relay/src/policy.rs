//! Who may do what: one pure function over parsed values, asked before every change and by every way in. Holds no I/O,
//! no clock and no state.
//!
//! For now the rules are built in. Whoever the authority has signed for may connect, and may claim the requests of any
//! service that carry something in particular. Every request of a service may be claimed where `relay.yaml` says
//! `all_traffic: true` and nowhere else, because such a claim takes what other people sent.

use culvert_certs::Identity;
use culvert_protocol::intercept::{Matcher, ServiceName};

/// What somebody would do.
#[derive(Clone, Copy, Debug)]
pub enum Verb<'a> {
    /// Have a tunnel.
    Connect,
    /// Take some of a service's requests.
    Claim { service: &'a ServiceName, terms: Terms, matcher: &'a Matcher },
    /// See what is claimed, and by whom.
    List,
}

/// What a service lets be done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub all_traffic: bool,
}

/// A no, and the rule that says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (rule {rule})")]
pub struct Denied {
    pub rule: &'static str,
    pub message: String,
}

pub fn allow(identity: &Identity, verb: Verb<'_>) -> Result<(), Denied> {
    match verb {
        Verb::Connect | Verb::List => Ok(()),
        Verb::Claim { service, terms, matcher } if matcher.is_all_traffic() && !terms.all_traffic => {
            Err(Denied {
                rule: "all-traffic",
                message: format!(
                    "{} may not take all traffic of {service}: say which requests, or have `all_traffic: true` set for it on the relay",
                    identity.name
                ),
            })
        }
        Verb::Claim { .. } => Ok(()),
    }
}
