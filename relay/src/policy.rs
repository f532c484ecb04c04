//! Who may do what: one pure function over parsed values, asked before every change and by every way in. Holds no I/O,
//! no clock and no state.
//!
//! For now the rules are built in. Whoever the authority has signed for may connect, and may claim the requests of any
//! service that carry something in particular. Every request of a service may be claimed where `relay.yaml` says
//! `all_traffic: true` and nowhere else, because such a claim takes what other people sent. A header that every caller
//! sends is nothing in particular, whatever its value: the same rule holds for a claim on such headers alone.

use culvert_certs::Identity;
use culvert_protocol::intercept::{Condition, Matcher, ServiceName};

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
        Verb::Claim { service, terms, matcher } if !terms.all_traffic && is_on_anybodys(matcher) => {
            Err(Denied {
                rule: "common-header",
                message: format!(
                    "{} may not take requests of {service} by {matcher} alone, which other people's requests meet too: add \
                 a header that only yours carry (x-user=NAME), or have `all_traffic: true` set for it on the relay",
                    identity.name
                ),
            })
        }
        Verb::Claim { .. } => Ok(()),
    }
}

/// Whether no condition is on a header that tells one person's requests from another's.
fn is_on_anybodys(matcher: &Matcher) -> bool {
    matcher.conditions().iter().all(|Condition::Header { name, .. }| is_common(name.as_str().as_bytes()))
}

/// A header that everybody sends, whatever its case.
pub(crate) fn is_common(name: &[u8]) -> bool {
    let begins = |beginning: &&str| {
        name.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning.as_bytes()))
    };
    COMMON.iter().any(|common| name.eq_ignore_ascii_case(common.as_bytes()))
        || COMMON_BEGINNINGS.iter().any(begins)
}

/// Headers that callers, and what stands before the relay, put on requests by themselves, with values that many of them
/// share. In lower case, as a claim's names are.
const COMMON: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "dnt",
    "expect",
    "forwarded",
    "from",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "proxy-connection",
    "range",
    "referer",
    "save-data",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-real-ip",
    "x-requested-with",
];

/// Families of such headers: what browsers say of themselves, and proxies of their callers.
const COMMON_BEGINNINGS: &[&str] = &["sec-ch-", "sec-fetch-", "sec-gpc", "x-forwarded-"];

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn alice() -> Identity {
        let now = SystemTime::now();
        let directory = tempfile::tempdir().unwrap();
        let authority =
            culvert_certs::Authority::open_or_create(&directory.path().join("data"), now).unwrap();
        let request = culvert_certs::DeveloperKey::generate().unwrap().request().unwrap();
        let name = "alice".parse().unwrap();
        let issued = authority.sign_csr(request.as_bytes(), &name, Duration::from_secs(3600), now).unwrap();
        Identity::from_verified(&issued.certificate).unwrap()
    }

    fn claiming(identity: &Identity, all_traffic: bool, conditions: &[&str]) -> Result<(), Denied> {
        let matcher = Matcher::new(conditions.iter().map(|text| text.parse().unwrap())).unwrap();
        let service = "carts".parse().unwrap();
        allow(identity, Verb::Claim { service: &service, terms: Terms { all_traffic }, matcher: &matcher })
    }

    #[test]
    fn a_header_that_everybody_sends_is_no_way_around_all_traffic() {
        let alice = alice();
        for everybodys in [
            &["host=carts.example.com"][..],
            &["Accept=*/*"],
            &["accept-encoding: gzip, deflate, br"],
            &["accept-language=en"],
            &["user-agent=kube-probe/1.33"],
            &["content-type=application/json"],
            &["content-length=0"],
            &["x-forwarded-proto=https"],
            &["sec-fetch-mode=cors"],
            &["host=carts", "accept=*/*", "user-agent=curl/8.5.0"],
        ] {
            let denied = claiming(&alice, false, everybodys).unwrap_err();
            assert_eq!(denied.rule, "common-header");
            let said = denied.to_string();
            assert!(said.starts_with("alice may not take requests of carts by "), "{said}");
            assert!(said.contains("add a header that only yours carry (x-user=NAME)"), "{said}");
            assert!(said.ends_with("(rule common-header)"), "{said}");
            claiming(&alice, true, everybodys).unwrap();
        }
        assert_eq!(claiming(&alice, false, &[]).unwrap_err().rule, "all-traffic");
    }

    #[test]
    fn a_header_of_ones_own_is_enough_beside_any_other() {
        let alice = alice();
        claiming(&alice, false, &["x-user=alice"]).unwrap();
        claiming(&alice, false, &["host=carts", "accept=*/*", "x-user=alice"]).unwrap();
        claiming(&alice, false, &["authorization=Bearer abc"]).unwrap();
    }
}
