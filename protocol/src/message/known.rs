//! What is known of a field's name, whatever its value: the one list of names that are one connection's, that nobody may name
//! away, say with `_` or put behind a body, and that say who the caller is. A name that is not in it means nothing to us.

/// What tells the developer's client's failures to the relay, and the relay's to callers.
pub const FAILURE_FIELD: &str = "culvert-failure";

/// Who the caller is, or what is the relay's own to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouched {
    /// `X-Forwarded-For`.
    For,
    /// `X-Forwarded-Proto`.
    Proto,
    /// `X-Forwarded-Host`.
    Host,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Any other of the kind.
    Other,
    /// `Culvert-*`: nobody else's to say.
    Ours,
}

/// Concerns one connection only (RFC 9110 §7.6.1): parsed by whoever reads, said anew by whoever writes.
const HOP: u8 = 1;
/// `Connection` cannot name it away (CVE-2024-45410, CVE-2026-29054): it decides framing, routing, or who the caller is.
const KEPT: u8 = 2;
/// Said with `_`, which CGI takes for `-`, it would be a second way to say it (CVE-2026-33433): that spelling is left out.
const SHADOWED: u8 = 4;
/// Not taken from behind a body: whoever reads it there has acted on the message already (RFC 9110 §6.5.1).
const AHEAD: u8 = 8;

struct Known {
    name: &'static [u8],
    rules: u8,
    vouched: Option<Vouched>,
}

const fn known(name: &'static str, rules: u8) -> Known {
    Known { name: name.as_bytes(), rules, vouched: None }
}

const fn vouching(name: &'static str, vouched: Vouched) -> Known {
    Known { name: name.as_bytes(), rules: KEPT | SHADOWED | AHEAD, vouched: Some(vouched) }
}

const NAMES: &[Known] = &[
    // RFC 9110 §7.6.1, and what was never registered and is sent all the same.
    known("connection", HOP | AHEAD),
    known("keep-alive", HOP | SHADOWED | AHEAD),
    known("proxy-connection", HOP | SHADOWED | AHEAD),
    // RFC 9110 §10.1.4, §7.8.
    known("te", HOP | AHEAD),
    known("upgrade", HOP | AHEAD),
    // RFC 7540 §3.2.1: h2c by upgrade, which is not served.
    known("http2-settings", HOP | SHADOWED | AHEAD),
    // Framing: RFC 9112 §6.1, §6.2.
    known("transfer-encoding", HOP | SHADOWED | AHEAD),
    known("content-length", KEPT | SHADOWED | AHEAD),
    // Routing: RFC 9112 §3.2.
    known("host", KEPT | AHEAD),
    // Who the caller is.
    vouching("forwarded", Vouched::Forwarded),
    vouching("x-forwarded-for", Vouched::For),
    vouching("x-forwarded-proto", Vouched::Proto),
    vouching("x-forwarded-host", Vouched::Host),
    vouching("x-real-ip", Vouched::Other),
    // Which way it came: RFC 9110 §7.6.3, §7.6.2.
    known("via", KEPT | AHEAD),
    known("max-forwards", AHEAD),
    // What the caller may: RFC 9110 §11, RFC 6265.
    known("authorization", KEPT | AHEAD),
    known("proxy-authorization", AHEAD),
    known("www-authenticate", AHEAD),
    known("proxy-authenticate", AHEAD),
    known("cookie", KEPT | AHEAD),
    known("set-cookie", AHEAD),
    // How a body is read: RFC 9110 §8.3, §8.4, §14.4, §6.6.2.
    known("content-type", KEPT | AHEAD),
    known("content-encoding", AHEAD),
    known("content-range", AHEAD),
    known("trailer", AHEAD),
    // Whether and how a request is acted on: RFC 9110 §10.1.1, §13.1, §14.2.
    known("expect", KEPT | AHEAD),
    known("if-match", AHEAD),
    known("if-none-match", AHEAD),
    known("if-modified-since", AHEAD),
    known("if-unmodified-since", AHEAD),
    known("if-range", AHEAD),
    known("range", AHEAD),
    // What becomes of a response: RFC 9110 §10.2, §6.6.1, RFC 9111 §5.
    known("location", AHEAD),
    known("cache-control", AHEAD),
    known("age", AHEAD),
    known("expires", AHEAD),
    known("date", KEPT | AHEAD),
];

/// Every name that begins like this, unless it stands above.
const BEGINNINGS: &[Known] = &[vouching("x-forwarded-", Vouched::Other), vouching("culvert-", Vouched::Ours)];

/// Fields that concern one connection only (RFC 9110 §7.6.1).
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    // Asked of every field: most are told by their length.
    HOP_LENGTHS & length_bit(name.len()) != 0
        && NAMES[..HOPS].iter().any(|known| known.name.eq_ignore_ascii_case(name))
}

/// Fields that `Connection` cannot name away.
pub(super) fn is_kept(name: &[u8]) -> bool {
    follows(name, KEPT)
}

/// `Content_Length` and its kind: a name that we frame, route or vouch by, said with `_`.
pub(crate) fn is_shadow(name: &[u8]) -> bool {
    name.contains(&b'_') && follows(&dashed(name), SHADOWED)
}

/// Fields that may stand behind a body. Those that decide framing, routing, authority or how a message is read may not.
pub fn may_be_trailer(name: &[u8]) -> bool {
    !follows(name, AHEAD) && !is_shadow(name)
}

/// Whose word it is on who the caller is.
pub fn vouched(name: &[u8]) -> Option<Vouched> {
    // Asked of every field: most are told by their first letter.
    let first = name.first()? | 0x20;
    let whole = match VOUCHED_LETTERS & letter_bit(first) {
        0 => None,
        _ => NAMES.iter().find(|known| known.vouched.is_some() && known.name.eq_ignore_ascii_case(name)),
    };
    whole.or_else(|| BEGINNINGS.iter().find(|known| begins(name, known.name))).and_then(|known| known.vouched)
}

/// Whether the name, or what CGI would take it for, is one of those that `is` knows.
pub fn in_any_spelling(name: &[u8], is: impl Fn(&[u8]) -> bool) -> bool {
    is(name) || name.contains(&b'_') && is(&dashed(name))
}

fn follows(name: &[u8], rule: u8) -> bool {
    NAMES.iter().any(|known| known.rules & rule != 0 && known.name.eq_ignore_ascii_case(name))
        || BEGINNINGS.iter().any(|known| known.rules & rule != 0 && begins(name, known.name))
}

fn begins(name: &[u8], beginning: &[u8]) -> bool {
    name.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

fn dashed(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect()
}

/// How many names are one connection's: they stand first.
const HOPS: usize = {
    let mut count = 0;
    while NAMES[count].rules & HOP != 0 {
        count += 1;
    }
    let mut at = count;
    while at < NAMES.len() {
        assert!(NAMES[at].rules & HOP == 0, "stands behind one that is not");
        at += 1;
    }
    count
};

/// The lengths of the names that are one connection's, a bit each.
const HOP_LENGTHS: u64 = {
    let (mut bits, mut at) = (0, 0);
    while at < HOPS {
        bits |= length_bit(NAMES[at].name.len());
        at += 1;
    }
    bits
};

/// The first letters of the names that say who the caller is, a bit each.
const VOUCHED_LETTERS: u64 = {
    let (mut bits, mut at) = (0, 0);
    while at < NAMES.len() {
        if NAMES[at].vouched.is_some() {
            bits |= letter_bit(NAMES[at].name[0]);
        }
        at += 1;
    }
    bits
};

const fn length_bit(length: usize) -> u64 {
    if length < 64 { 1 << length } else { 0 }
}

const fn letter_bit(lower: u8) -> u64 {
    if lower.is_ascii_lowercase() { 1 << (lower - b'a') } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_same_however_it_is_spelt() {
        for known in NAMES {
            let name = String::from_utf8(known.name.to_vec()).unwrap();
            for spelt in [name.clone(), name.to_uppercase()] {
                assert_eq!(is_hop_by_hop(spelt.as_bytes()), known.rules & HOP != 0, "{spelt}");
                assert_eq!(vouched(spelt.as_bytes()), known.vouched, "{spelt}");
                assert_eq!(may_be_trailer(spelt.as_bytes()), known.rules & AHEAD == 0, "{spelt}");
            }
            let shadow = name.replace('-', "_");
            assert_eq!(
                is_shadow(shadow.as_bytes()),
                known.rules & SHADOWED != 0 && shadow != name,
                "{shadow}"
            );
        }
    }

    #[test]
    fn every_name_of_ours_and_of_proxies_is_known() {
        for name in ["culvert-anything", "Culvert-Failure", "X-Forwarded-Prefix"] {
            let expected = if name.starts_with('X') { Vouched::Other } else { Vouched::Ours };
            assert_eq!(vouched(name.as_bytes()), Some(expected), "{name}");
            assert!(is_kept(name.as_bytes()) && !may_be_trailer(name.as_bytes()), "{name}");
            let half = name.replacen('-', "_", 1);
            assert!(is_shadow(half.as_bytes()) && !may_be_trailer(half.as_bytes()), "{half}");
        }
        for name in ["x-user", "culvert", "x_user", "grpc-status", "x-forwarded"] {
            assert_eq!(vouched(name.as_bytes()), None, "{name}");
            assert!(!is_kept(name.as_bytes()) && !is_shadow(name.as_bytes()), "{name}");
            assert!(may_be_trailer(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_steering_name_is_known_in_every_spelling() {
        let steers = |name: &[u8]| name.eq_ignore_ascii_case(b"x-user-name");
        for name in ["x-user-name", "X_User_Name", "x-user_name"] {
            assert!(in_any_spelling(name.as_bytes(), steers), "{name}");
        }
        assert!(!in_any_spelling(b"x_user", steers));
    }
}
