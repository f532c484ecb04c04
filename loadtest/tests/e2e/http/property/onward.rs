//! What becomes of a message on its way, whichever it takes: all that may differ between what one side says and what the
//! other one hears is here. Pure.

use std::collections::BTreeMap;

use culvert_loadtest::message::Message;

use super::legal::{Line, Request, Response};

/// A message as HTTP/2 can tell it: method and target, or status; fields, body, trailers.
pub(super) type InHttp2 = (Vec<String>, Fields, Vec<u8>, Fields);
/// The values of each name, in order.
pub(super) type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// A message as it was heard, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The request or status line.
    pub(super) line: String,
    pub(super) lines: Vec<Line>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<Line>,
    /// `TE: trailers`.
    pub(super) takes_trailers: bool,
}

/// A request goes on in HTTP/1.1 and in origin-form. Whoever named no host is given an empty one.
pub(super) fn request(said: &Request) -> Heard {
    let mut lines = end_to_end(&said.lines);
    if said.host.is_none() {
        lines.insert(0, ("host".to_owned(), Vec::new()));
    }
    Heard {
        line: format!("{} {} HTTP/1.1", said.method, said.target),
        lines,
        body: said.body.data(),
        trailers: said.body.trailers().to_vec(),
        takes_trailers: said.takes_trailers(),
    }
}

/// A response is said in the version of its request, of which HTTP/1.0 has no trailers. Without a reason phrase it is given
/// the standard one.
pub(super) fn response(said: &Response, version: &str) -> Heard {
    let reason = match &said.reason[..] {
        "" => http::StatusCode::from_u16(said.status).unwrap().canonical_reason().unwrap_or_default(),
        reason => reason,
    };
    Heard {
        line: format!("HTTP/{version} {} {reason}", said.status),
        lines: end_to_end(&said.lines),
        body: said.body.data(),
        trailers: if version == "1.0" { Vec::new() } else { said.body.trailers().to_vec() },
        takes_trailers: false,
    }
}

/// What HTTP/2 can tell of it: names in lower case, the order of each name's own lines, and neither version nor reason.
pub(super) fn in_http2(mut heard: Heard) -> InHttp2 {
    for (name, _) in heard.lines.iter_mut().chain(&mut heard.trailers) {
        name.make_ascii_lowercase();
    }
    let parts = heard.line.split(' ').map(str::to_owned);
    let line = if heard.line.starts_with("HTTP/") {
        parts.skip(1).take(1).collect()
    } else {
        parts.take(2).collect()
    };
    let mut fields = by_name(&heard.lines);
    // A cookie in crumbs is put together again (RFC 9113 §8.2.3).
    if let Some(cookies) = fields.get_mut("cookie") {
        *cookies = vec![cookies.join(&b"; "[..])];
    }
    (line, fields, heard.body, by_name(&heard.trailers))
}

fn by_name(lines: &[Line]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.entry(name.clone()).or_default().push(value.clone());
    }
    fields
}

/// What concerns one connection only stays on it (RFC 9110 §7.6.1); everything else goes on as it was said.
pub(super) fn end_to_end(lines: &[Line]) -> Vec<Line> {
    const STAY: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "x-only-this-connection",
    ];
    let named = lines.iter().any(|(name, value)| {
        name == "Connection" && String::from_utf8_lossy(value).contains("X-Only-This-Connection")
    });
    let stays = |name: &str| {
        let name = name.to_ascii_lowercase();
        STAY.contains(&&name[..]) && (named || name != "x-only-this-connection")
    };
    lines.iter().filter(|(name, _)| !stays(name)).cloned().collect()
}

/// What was heard, without what its connection's two ends say to each other anew, and without what the relay says of itself.
pub(super) fn heard(message: &Message) -> Heard {
    let head = &message.bytes[..message.head - 4];
    let (line, rest) = head.split_at(find(head, b"\r\n").unwrap_or(head.len()));
    let mut lines = split(rest);
    let mut takes_trailers = false;
    lines.retain(|(name, value)| match &name.to_ascii_lowercase()[..] {
        "connection" => {
            assert!([&b"te"[..], b"close"].contains(&&value[..]), "{}", value.escape_ascii());
            false
        }
        "te" => {
            assert_eq!(value, b"trailers");
            takes_trailers = true;
            false
        }
        "transfer-encoding" => {
            assert_eq!(value, b"chunked");
            false
        }
        "culvert-via" | "culvert-route" => false,
        _ => true,
    });
    let framings = ["\r\ntransfer-encoding:", "\r\ncontent-length:"];
    let lower = head.to_ascii_lowercase();
    let told: usize = framings.iter().map(|name| count(&lower, name.as_bytes())).sum();
    assert!(told <= 1, "more than one framing: {}", head.escape_ascii());
    Heard {
        line: String::from_utf8_lossy(line).into_owned(),
        lines,
        body: message.body.clone(),
        trailers: split(&message.trailers),
        takes_trailers,
    }
}

fn split(lines: &[u8]) -> Vec<Line> {
    let mut rest = lines;
    let mut split = Vec::new();
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            let (name, value) = line.split_at(colon);
            split.push((String::from_utf8_lossy(name).into_owned(), value[1..].trim_ascii().to_vec()));
        }
    }
    split
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).filter(|window| *window == wanted).count()
}
