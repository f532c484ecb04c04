//! What a proxy owes to both sides (RFC 9110 §7.6, RFC 7239): who the caller is, told once and not forgeable, and what is
//! ours to say taken from whoever says it in our place. Pure.

use std::net::IpAddr;

use culvert_protocol::message::{RequestHead, ResponseHead, Version, Vouched, vouched};

use super::caller::Peer;
use crate::config::{Forwarded, Manners, RouteField};
use crate::tunnels::claim::Claim;

/// Which claims a request has gone down already, for requests that an app sends back to the door.
pub(crate) const VIA_FIELD: &str = "culvert-via";
/// Where a request went, on its response.
pub(crate) const ROUTE_FIELD: &str = "culvert-route";

/// Rewrites what a request says of its caller and of us. What a trusted proxy says stays, and is added to.
pub(super) fn rewrite(head: &mut RequestHead, peer: &Peer, manners: &Manners) {
    if manners.transparent {
        return head.fields.retain(|name, _| !is_ours(name) || is_via(name));
    }
    let trusted = manners.trusted_proxies.iter().any(|network| network.contains(&peer.address));
    let mut told = Told::default();
    head.fields.retain(|name, value| match vouched(name) {
        None => true,
        Some(Vouched::Ours) => is_via(name),
        Some(_) if !trusted => false,
        Some(Vouched::For) => {
            join(&mut told.forwarded_for, value);
            false
        }
        Some(Vouched::Forwarded) => {
            join(&mut told.forwarded, value);
            false
        }
        Some(Vouched::Proto) => {
            told.proto = true;
            true
        }
        Some(Vouched::Host) => {
            told.host = true;
            true
        }
        Some(Vouched::Other) => true,
    });
    let scheme: &[u8] = if peer.secure { b"https" } else { b"http" };
    if matches!(manners.forwarded, Forwarded::XForwarded | Forwarded::Both) {
        join(&mut told.forwarded_for, peer.address.to_string().as_bytes());
        head.fields.push(b"x-forwarded-for", &told.forwarded_for);
        if !told.proto {
            head.fields.push(b"x-forwarded-proto", scheme);
        }
        if !told.host
            && let Some(host) = head.host().map(<[u8]>::to_vec)
        {
            head.fields.push(b"x-forwarded-host", &host);
        }
    } else if !told.forwarded_for.is_empty() {
        head.fields.push(b"x-forwarded-for", &told.forwarded_for);
    }
    if matches!(manners.forwarded, Forwarded::Standard | Forwarded::Both) {
        join(&mut told.forwarded, &element(peer, head.host(), scheme));
    }
    if !told.forwarded.is_empty() {
        head.fields.push(b"forwarded", &told.forwarded);
    }
    if manners.via {
        head.fields.push(b"via", via(head.version));
    }
}

/// Where a request that is claimed goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tunnel,
    /// The developer did not take it.
    Refused,
    /// The developer cannot be reached.
    Unreachable,
}

impl Place {
    fn label(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Refused => "upstream; refused",
            Self::Unreachable => "upstream; unreachable",
        }
    }
}

/// Where a request goes, as its response tells it; none where it is not to be told.
pub(super) fn route(claim: Option<&Claim>, place: Place, manners: &Manners) -> Option<Box<str>> {
    let told = match manners.route_field {
        RouteField::Never => false,
        RouteField::Matched => claim.is_some(),
        RouteField::Always => true,
    };
    told.then(|| match claim {
        None => "upstream".into(),
        Some(claim) => {
            let intercept = claim.intercept.name.as_str().replace(['"', '\\'], "'");
            format!("{}; owner={}; intercept=\"{intercept}\"", place.label(), claim.owner).into()
        }
    })
}

/// Says on a response what is ours to say.
pub(super) fn dress(response: &mut ResponseHead, route: Option<&str>, via: bool) {
    if let Some(route) = route {
        response.fields.push(ROUTE_FIELD.as_bytes(), route.as_bytes());
    }
    if via {
        response.fields.push(b"via", self::via(response.version));
    }
}

/// The request has gone down this claim before.
pub(crate) fn has_passed(head: &RequestHead, pass: &str) -> bool {
    head.fields.all(VIA_FIELD).any(|value| value == pass.as_bytes())
}

/// The protocol that the message came in, and a pseudonym (RFC 9110 §7.6.3).
pub(super) fn via(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"1.0 culvert",
        Version::Http11 => b"1.1 culvert",
        Version::Http2 => b"2.0 culvert",
    }
}

/// What trusted proxies told, and what is to be said once at the end.
#[derive(Default)]
struct Told {
    forwarded_for: Vec<u8>,
    forwarded: Vec<u8>,
    proto: bool,
    host: bool,
}

/// `Culvert-*`: nobody else's to say.
fn is_ours(name: &[u8]) -> bool {
    vouched(name) == Some(Vouched::Ours)
}

/// Forged, it could only make its own request fail.
fn is_via(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(VIA_FIELD.as_bytes())
}

fn join(list: &mut Vec<u8>, value: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value);
}

/// One element of `Forwarded` (RFC 7239 §4); addresses of IPv6 and hosts with a port are quoted.
fn element(peer: &Peer, host: Option<&[u8]>, scheme: &[u8]) -> Vec<u8> {
    let mut element = match peer.address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
    .into_bytes();
    if let Some(host) = host {
        element.extend_from_slice(b";host=\"");
        // A host holds neither quote nor backslash: it was checked.
        element.extend_from_slice(host);
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(scheme);
    element
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_protocol::message::Fields;

    fn rewritten(lines: &[(&str, &str)], manners: &Manners) -> Vec<(String, String)> {
        let fields: Fields = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let mut head = RequestHead { fields, ..RequestHead::default() };
        rewrite(&mut head, &Peer::new("10.1.2.3:4".parse().unwrap(), false), manners);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        head.fields.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const FORGED: &[(&str, &str)] = &[
        ("Host", "a:80"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-FORWARDED-PROTO", "https"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("Culvert-Route", "x"),
    ];

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        assert_eq!(
            rewritten(FORGED, &Manners { transparent: false, ..Manners::default() }),
            lines(&[
                ("Host", "a:80"),
                ("x-forwarded-for", "10.1.2.3"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "a:80"),
                ("via", "1.1 culvert"),
            ])
        );
    }

    #[test]
    fn a_trusted_proxy_is_added_to() {
        let manners = Manners {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            transparent: false,
            ..Manners::default()
        };
        assert_eq!(
            rewritten(FORGED, &manners),
            lines(&[
                ("Host", "a:80"),
                ("X-FORWARDED-PROTO", "https"),
                ("X-Forwarded-Prefix", "/evil"),
                ("X-Real-IP", "6.6.6.6"),
                ("x-forwarded-for", "6.6.6.6, 10.1.2.3"),
                ("x-forwarded-host", "a:80"),
                ("forwarded", "for=6.6.6.6"),
                ("via", "1.1 culvert"),
            ])
        );
    }

    #[test]
    fn forwarded_is_said_as_rfc_7239_does() {
        let manners =
            Manners { transparent: false, forwarded: Forwarded::Standard, via: false, ..Manners::default() };
        assert_eq!(
            rewritten(&[("host", "a:80")], &manners),
            lines(&[("host", "a:80"), ("forwarded", "for=10.1.2.3;host=\"a:80\";proto=http")])
        );
    }

    #[test]
    fn a_transparent_door_leaves_everything_but_what_is_ours() {
        let manners = Manners::default();
        assert_eq!(
            rewritten(&[("Host", "a"), ("X-Forwarded-For", "1.2.3.4"), ("Culvert-Route", "x")], &manners),
            lines(&[("Host", "a"), ("X-Forwarded-For", "1.2.3.4")])
        );
    }
}
