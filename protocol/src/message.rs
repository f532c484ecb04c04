//! One representation of an HTTP message for HTTP/1, HTTP/2 and the wire: bytes as they came.
//!
//! A head keeps the end-to-end fields, in order and in the sender's spelling, and *parsed* what only concerned
//! the connection that it came on (RFC 9110 §7.6.1): nothing hop-by-hop is ever in [`Fields`]. Whoever decodes a
//! head, from whatever bytes, hands it over checked ([`RequestHead::check`], [`ResponseHead::check`]): a name is a token and a value
//! holds no CR, LF or NUL, so that no encoder can be made to say something else than was parsed.
//!
//! Heads are reused from request to request (`clear`), so that a connection allocates for its largest head once.

use std::fmt;

/// The version that the sender spoke, which decides what may be said back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing. A response to HEAD may still tell a `content-length` among its fields.
    #[default]
    Empty,
    /// So many bytes, as the `content-length` among the fields says.
    Exact(u64),
    /// Until its sender ends it: chunked, close-delimited, or an HTTP/2 stream without a `content-length`.
    Streamed,
}

/// A request's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    pub version: Version,
    pub method: Vec<u8>,
    /// In origin-form or asterisk-form (RFC 9112 §3.2), byte for byte as sent.
    pub target: Vec<u8>,
    /// The end-to-end fields. `host` is among them, whichever protocol brought it, exactly once (or, from
    /// HTTP/1.0, not at all).
    pub fields: Fields,
    pub body: Body,
    /// The protocol that the caller would switch to: `Upgrade` (RFC 9110 §7.8) or `:protocol` (RFC 8441). Empty: none.
    pub upgrade: Vec<u8>,
    /// The caller waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// The caller takes trailers (`TE: trailers`, RFC 9110 §10.1.4).
    pub takes_trailers: bool,
    /// The connection that brought this head can carry another one after it.
    pub keep_alive: bool,
    /// What `Connection` named, as a comma list: taken out by [`RequestHead::strip_nominated`].
    pub nominated: Vec<u8>,
}

/// A response's head, final or informational.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    pub version: Version,
    pub status: u16,
    /// HTTP/1's reason phrase; empty where the protocol has none.
    pub reason: Vec<u8>,
    pub fields: Fields,
    pub body: Body,
    /// The protocol that a 101 switched to.
    pub upgrade: Vec<u8>,
    pub keep_alive: bool,
}

/// Field lines in order, repeated ones too (RFC 9110 §5), in one buffer.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line's name and value stand in the text: `start..colon` and `colon..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    start: u32,
    colon: u32,
    end: u32,
}

/// Why a head made of parts cannot be said in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the method is not a token")]
    Method,
    #[error("CONNECT is not served: this is not a forward proxy")]
    Connect,
    #[error("the request target holds a byte that no target may hold")]
    Target,
    #[error("a field name is not a token")]
    Name,
    #[error("a field value holds a control byte")]
    Value,
    #[error("a field belongs to one connection only and cannot be passed on")]
    HopByHop,
    #[error("content-length is not one plain number, or not the body's")]
    ContentLength,
    #[error("host is missing, repeated or not a host")]
    Host,
    #[error("the status is not between 100 and 599")]
    Status,
    #[error("the upgrade is not a list of protocols")]
    Upgrade,
}

impl RequestHead {
    pub fn clear(&mut self) {
        let mut emptied = Self {
            method: std::mem::take(&mut self.method),
            target: std::mem::take(&mut self.target),
            fields: std::mem::take(&mut self.fields),
            upgrade: std::mem::take(&mut self.upgrade),
            nominated: std::mem::take(&mut self.nominated),
            ..Self::default()
        };
        emptied.method.clear();
        emptied.target.clear();
        emptied.fields.clear();
        emptied.upgrade.clear();
        emptied.nominated.clear();
        *self = emptied;
    }

    pub fn is(&self, method: &str) -> bool {
        self.method == method.as_bytes()
    }

    /// Asking for it again changes nothing (RFC 9110 §9.2.1).
    pub fn is_safe(&self) -> bool {
        self.is("GET") || self.is("HEAD") || self.is("OPTIONS")
    }

    /// The authority that the caller asked, as in `Host`.
    pub fn host(&self) -> Option<&[u8]> {
        self.fields.first("host")
    }

    /// Asks for another authority than the caller did.
    pub fn set_host(&mut self, host: &[u8]) {
        self.fields.remove("host");
        self.fields.push(b"host", host);
    }

    /// The path of the target, without its query.
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        self.target.get(..end).unwrap_or_default()
    }

    /// Takes out what `Connection` named, but never a field that decides framing, routing or who the caller is:
    /// those the caller may not make disappear between the one who matched and the one who reads (CVE-2024-45410).
    /// `steers` says which further names the relay matches on.
    pub fn strip_nominated(&mut self, steers: impl Fn(&[u8]) -> bool) {
        if self.nominated.is_empty() {
            return;
        }
        let nominated = std::mem::take(&mut self.nominated);
        self.fields.strip_listed(&nominated, steers);
    }

    /// Refuses what cannot be encoded as the same message. For heads that came from parts (HTTP/2, the wire).
    pub fn check(&self) -> Result<(), Malformed> {
        if !is_token(&self.method) {
            return Err(Malformed::Method);
        }
        // With a protocol it is RFC 8441's, and no tunnel to anywhere.
        if self.is("CONNECT") && self.upgrade.is_empty() {
            return Err(Malformed::Connect);
        }
        if !is_target(&self.target) {
            return Err(Malformed::Target);
        }
        if !self.upgrade.is_empty() && !is_value(&self.upgrade) {
            return Err(Malformed::Upgrade);
        }
        self.fields.check(self.body)?;
        let mut hosts = self.fields.all("host");
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_host(host) => Ok(()),
            (None, _) if self.version == Version::Http10 => Ok(()),
            _ => Err(Malformed::Host),
        }
    }
}

impl ResponseHead {
    pub fn clear(&mut self) {
        let mut emptied = Self {
            reason: std::mem::take(&mut self.reason),
            fields: std::mem::take(&mut self.fields),
            upgrade: std::mem::take(&mut self.upgrade),
            ..Self::default()
        };
        emptied.reason.clear();
        emptied.fields.clear();
        emptied.upgrade.clear();
        *self = emptied;
    }

    /// 1xx other than 101: more heads follow on the same exchange (RFC 9110 §15.2).
    pub fn is_informational(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }

    /// Neither this status nor this method lets a body follow (RFC 9112 §6.3).
    pub fn is_bodiless(&self, method: &[u8]) -> bool {
        method == b"HEAD" || matches!(self.status, 100..=199 | 204 | 304)
    }

    /// Refuses what cannot be encoded as the same message. For heads that came from parts (HTTP/2, the wire).
    pub fn check(&self) -> Result<(), Malformed> {
        if !matches!(self.status, 100..=599) {
            return Err(Malformed::Status);
        }
        // These have no body whatever was asked (RFC 9112 §6.3): said with one, its bytes would be taken for the next response.
        if matches!(self.status, 100..=199 | 204 | 304) && self.body != Body::Empty {
            return Err(Malformed::ContentLength);
        }
        if !is_value(&self.reason) {
            return Err(Malformed::Value);
        }
        if !self.upgrade.is_empty() && !is_value(&self.upgrade) {
            return Err(Malformed::Upgrade);
        }
        self.fields.check(self.body)
    }
}

impl Fields {
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        // Heads are capped far below 4 GiB before anything gets here; a line beyond is left out rather than cut.
        let (Ok(start), Ok(name_length), Ok(value_length)) =
            (u32::try_from(self.text.len()), u32::try_from(name.len()), u32::try_from(value.len()))
        else {
            return;
        };
        let Some(end) = start.checked_add(name_length).and_then(|colon| colon.checked_add(value_length))
        else {
            return;
        };
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.lines.push(Line { start, colon: start + name_length, end });
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of all names and values together.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| self.line(*line))
    }

    /// Every value of a name, whatever its case, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Keeps the lines that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| {
            let (name, value) = slices(text, *line);
            keep(name, value)
        });
    }

    /// Takes out every line of a name.
    pub fn remove(&mut self, name: &str) {
        self.retain(|other, _| !other.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Takes out the names that a comma list holds, except those that no caller may name away.
    pub(crate) fn strip_listed(&mut self, list: &[u8], steers: impl Fn(&[u8]) -> bool) {
        self.retain(|name, _| !list_contains(list, name) || is_protected(name) || steers(name));
    }

    fn line(&self, line: Line) -> (&[u8], &[u8]) {
        slices(&self.text, line)
    }

    fn check(&self, body: Body) -> Result<(), Malformed> {
        let mut length = None;
        for (name, value) in self.iter() {
            if !is_token(name) {
                return Err(Malformed::Name);
            }
            if !is_value(value) {
                return Err(Malformed::Value);
            }
            if is_hop_by_hop(name) {
                return Err(Malformed::HopByHop);
            }
            if name.eq_ignore_ascii_case(b"content-length")
                && (length.is_some() || {
                    length = parse_length(value);
                    length.is_none()
                })
            {
                return Err(Malformed::ContentLength);
            }
        }
        match (body, length) {
            (Body::Exact(said), Some(told)) if said != told => Err(Malformed::ContentLength),
            (Body::Exact(_), None) | (Body::Streamed, Some(_)) => Err(Malformed::ContentLength),
            _ => Ok(()),
        }
    }
}

fn slices(text: &[u8], line: Line) -> (&[u8], &[u8]) {
    let (start, colon, end) = (line.start as usize, line.colon as usize, line.end as usize);
    (text.get(start..colon).unwrap_or_default(), text.get(colon..end).unwrap_or_default())
}

/// The same lines in the same order; what was taken out does not count.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (lossy(name), lossy(value)))).finish()
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(lines: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    }
}

fn lossy(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A plain decimal number that every reader takes alike: no sign, no white space, no list, no leading zero that makes it
/// octal to some, and not beyond what a signed 64-bit number holds (RFC 9110 §8.6).
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    const MOST: u64 = i64::MAX as u64;
    if value.is_empty() || value.len() > 19 || value.len() > 1 && value.starts_with(b"0") {
        return None;
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
        .filter(|length| *length <= MOST)
}

/// A token of RFC 9110 §5.6.2.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A field value of RFC 9110 §5.5: visible bytes, obs-text, space and tab.
pub fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// Origin-form or asterisk-form. RFC 3986 forbids more than this; what browsers send unescaped (`|`, `"`, `{`) passes,
/// but never white space, a control byte, a fragment or a byte beyond ASCII.
pub fn is_target(bytes: &[u8]) -> bool {
    bytes == b"*"
        || bytes.first() == Some(&b'/')
            && bytes.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#')
}

/// `host [":" port]` of RFC 3986 §3.2.2, without user information; nothing that could be a path or a list.
pub fn is_host(bytes: &[u8]) -> bool {
    let (name, port) = match bytes.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !bytes.ends_with(b"]") => {
            (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..).unwrap_or_default())
        }
        _ => (bytes, &[] as &[u8]),
    };
    let literal = name.first() == Some(&b'[')
        && name.last() == Some(&b']')
        && name.len() > 2
        && name[1..name.len() - 1]
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'v' | b'%'));
    let registered = !name.is_empty()
        && name.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                )
        });
    (literal || registered) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// Fields that concern one connection only (RFC 9110 §7.6.1): parsed by whoever reads them, said anew by whoever writes.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    let one_of: &[&[u8]] = match name.len() {
        2 => &[b"te"],
        7 => &[b"upgrade"],
        10 => &[b"connection", b"keep-alive"],
        14 => &[b"http2-settings"],
        16 => &[b"proxy-connection"],
        17 => &[b"transfer-encoding"],
        _ => return false,
    };
    one_of.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Fields that decide framing, routing or who the caller is: `Connection` cannot name them away.
fn is_protected(name: &[u8]) -> bool {
    const WHOLE: [&[u8]; 10] = [
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"cookie",
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"expect",
        b"date",
    ];
    const PREFIXES: [&[u8]; 2] = [b"x-forwarded-", b"culvert-"];
    WHOLE.iter().any(|other| name.eq_ignore_ascii_case(other))
        || PREFIXES
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

/// `Content_Length` and its kind: a name that we frame, route or vouch by, spelt with `_`.
pub(crate) fn is_shadow(name: &[u8]) -> bool {
    if !name.contains(&b'_') {
        return false;
    }
    const WHOLE: [&[u8]; 9] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"connection",
        b"upgrade",
        b"forwarded",
        b"x-real-ip",
        b"proxy-connection",
        b"keep-alive",
    ];
    const PREFIXES: [&[u8]; 2] = [b"x-forwarded-", b"culvert-"];
    let same = |other: &[u8], name: &[u8]| {
        other.len() == name.len()
            && other
                .iter()
                .zip(name)
                .all(|(ours, theirs)| theirs.eq_ignore_ascii_case(ours) || *ours == b'-' && *theirs == b'_')
    };
    WHOLE.iter().any(|other| same(other, name))
        || PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(prefix, start)))
}

/// Whether a comma list holds a token, whatever its case (RFC 9110 §5.6.1).
pub(crate) fn list_contains(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    #[test]
    fn fields_keep_order_spelling_and_repetition() {
        let fields = fields(&[("Set-Cookie", "a"), ("X-Empty", ""), ("set-cookie", "b")]);
        let lines: Vec<_> = fields.iter().collect();
        assert_eq!(lines, [(&b"Set-Cookie"[..], &b"a"[..]), (b"X-Empty", b""), (b"set-cookie", b"b")]);
        assert_eq!(fields.all("SET-COOKIE").collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn connection_cannot_name_away_what_decides() {
        let mut head = RequestHead {
            fields: fields(&[
                ("Host", "a"),
                ("X-User", "alice"),
                ("X-Hop", "1"),
                ("X-Forwarded-For", "::1"),
                ("Culvert-Route", "x"),
            ]),
            nominated: b"close, host , x-user,X-HOP, x-forwarded-for, culvert-route".to_vec(),
            ..RequestHead::default()
        };
        head.strip_nominated(|name| name.eq_ignore_ascii_case(b"x-user"));
        assert_eq!(
            head.fields,
            fields(&[
                ("Host", "a"),
                ("X-User", "alice"),
                ("X-Hop", "1"),
                ("X-Forwarded-For", "::1"),
                ("Culvert-Route", "x")
            ])
            .iter()
            .filter(|(name, _)| *name != b"X-Hop")
            .collect::<Fields>()
        );
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_maybe_a_port() {
        for good in ["a", "a.test:80", "127.0.0.1:1", "[::1]", "[::1]:8080", "a_b.test", "a:"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["", ":80", "a/b", "u@a", "a, b", "a b", "[::1", "a:b", "a:123456", "[]", "a\0"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"10"), Some(10));
        assert_eq!(parse_length(b"9223372036854775807"), Some(9_223_372_036_854_775_807));
        for bad in [
            "",
            "+5",
            "-5",
            "5 ",
            " 5",
            "0x5",
            "0_5",
            "5,5",
            "5.0",
            "5 5",
            "\u{a0}5",
            "\u{665}",
            "00",
            "05",
            "9223372036854775808",
            "9999999999999999999",
            "18446744073709551621",
            "00000000000000000005",
        ] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_made_of_parts_is_refused_when_it_would_say_something_else() {
        let good = RequestHead {
            method: b"GET".to_vec(),
            target: b"/a?b=%2F//;|".to_vec(),
            fields: fields(&[("host", "a"), ("x", "caf\u{e9}")]),
            ..RequestHead::default()
        };
        assert_eq!(good.check(), Ok(()));
        let with = |change: &dyn Fn(&mut RequestHead)| {
            let mut head = good.clone();
            change(&mut head);
            head.check()
        };
        assert_eq!(with(&|head| head.method = b"GET /x".to_vec()), Err(Malformed::Method));
        assert_eq!(with(&|head| head.method = b"CONNECT".to_vec()), Err(Malformed::Connect));
        assert_eq!(with(&|head| head.target = b"/a b".to_vec()), Err(Malformed::Target));
        assert_eq!(with(&|head| head.target = b"/a\r\nx".to_vec()), Err(Malformed::Target));
        assert_eq!(with(&|head| head.fields.push(b"a b", b"")), Err(Malformed::Name));
        assert_eq!(with(&|head| head.fields.push(b"a", b"b\r\nc: d")), Err(Malformed::Value));
        assert_eq!(
            with(&|head| head.fields.push(b"Transfer-Encoding", b"chunked")),
            Err(Malformed::HopByHop)
        );
        assert_eq!(with(&|head| head.fields.push(b"host", b"b")), Err(Malformed::Host));
        assert_eq!(with(&|head| head.body = Body::Exact(3)), Err(Malformed::ContentLength));
    }
}
