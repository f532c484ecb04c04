//! A second opinion: a reader that shares no code with the codec and forgives nothing. What the codec says must pass it.

/// One message as read here.
pub(super) struct Seen {
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// What only one connection may say to itself, and never what a caller sent.
const PER_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

pub(super) fn requests(mut bytes: &[u8]) -> Result<Vec<Seen>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (line, fields, rest) = head(bytes)?;
        let words: Vec<&str> = line.split(' ').collect();
        let &[method, target, "HTTP/1.1"] = &words[..] else { return Err(format!("request line {line:?}")) };
        if !is_name(method) || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(format!("request line {line:?}"));
        }
        if target != "*" && !target.starts_with('/') {
            return Err(format!("target {target:?}"));
        }
        if count(&fields, "host") != 1 {
            return Err("not one host".into());
        }
        let framing = framing(&fields)?.unwrap_or(Framing::Exact(0));
        let (body, rest) = body(framing, rest)?;
        all.push(Seen { fields, body });
        bytes = rest;
    }
    Ok(all)
}

/// A single response; `to_head` and its status say whether a body follows.
pub(super) fn response(bytes: &[u8], to_head: bool) -> Result<Seen, String> {
    let (line, fields, rest) = head(bytes)?;
    let status = line.get(9..12).and_then(|status| status.parse::<u16>().ok()).ok_or("status line")?;
    let http10 = line.starts_with("HTTP/1.0 ");
    if !http10 && !line.starts_with("HTTP/1.1 ") {
        return Err(format!("status line {line:?}"));
    }
    let framing = framing(&fields)?;
    if matches!(status, 100..=199 | 204) && framing.is_some() {
        return Err("framing where none may be".into());
    }
    if http10 && matches!(framing, Some(Framing::Chunked)) {
        return Err("chunked to HTTP/1.0".into());
    }
    let (body, rest) = if to_head || matches!(status, 100..=199 | 204 | 304) {
        (Vec::new(), rest)
    } else {
        match framing {
            Some(framing) => body(framing, rest)?,
            None if http10 => (rest.to_vec(), &[][..]),
            None => return Err("no framing".into()),
        }
    };
    if rest.is_empty() { Ok(Seen { fields, body }) } else { Err("bytes behind the response".into()) }
}

type Head<'a> = (String, Vec<(String, Vec<u8>)>, &'a [u8]);

fn head(bytes: &[u8]) -> Result<Head<'_>, String> {
    let end = find(bytes, b"\r\n\r\n").ok_or("no end of head")?;
    let mut lines = lines(&bytes[..end])?.into_iter();
    let line =
        String::from_utf8(lines.next().ok_or("no first line")?).map_err(|_| "first line is not text")?;
    Ok((line, lines.map(|line| field(&line)).collect::<Result<_, _>>()?, &bytes[end + 4..]))
}

/// Splits at CR LF; a CR or LF of its own, and any other control byte, is an error.
fn lines(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut lines = vec![Vec::new()];
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => {
                lines.push(Vec::new());
                at += 1;
            }
            byte if byte < b' ' && byte != b'\t' || byte == 0x7f => return Err(format!("byte {byte:#x}")),
            byte => lines.last_mut().expect("never empty").push(byte),
        }
        at += 1;
    }
    Ok(lines)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("no colon")?;
    let name = String::from_utf8(line[..colon].to_vec()).map_err(|_| "name is not text")?;
    if !is_name(&name) || PER_HOP.contains(&name.to_lowercase().as_str()) {
        return Err(format!("field name {name:?}"));
    }
    let value = line[colon + 1..].strip_prefix(b" ").ok_or("no space after the colon")?;
    if value.first().is_some_and(u8::is_ascii_whitespace) || value.last().is_some_and(u8::is_ascii_whitespace)
    {
        return Err(format!("white space around the value of {name}"));
    }
    Ok((name.to_lowercase(), value.to_vec()))
}

#[derive(Clone, Copy)]
enum Framing {
    Exact(usize),
    Chunked,
}

fn framing(fields: &[(String, Vec<u8>)]) -> Result<Option<Framing>, String> {
    let coding = values(fields, "transfer-encoding");
    let length = values(fields, "content-length");
    match (&coding[..], &length[..]) {
        ([], []) => Ok(None),
        ([b"chunked"], []) => Ok(Some(Framing::Chunked)),
        ([], [length]) => {
            let number = std::str::from_utf8(length).ok().and_then(|digits| digits.parse::<usize>().ok());
            let number = number.filter(|number| number.to_string().as_bytes() == *length);
            Ok(Some(Framing::Exact(number.ok_or("content-length is not plain")?)))
        }
        _ => Err("more than one framing".into()),
    }
}

fn body(framing: Framing, mut bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    if let Framing::Exact(length) = framing {
        let body = bytes.get(..length).ok_or("the body is short")?;
        return Ok((body.to_vec(), &bytes[length..]));
    }
    let mut body = Vec::new();
    loop {
        let end = find(bytes, b"\r\n").ok_or("no chunk head")?;
        let digits = std::str::from_utf8(&bytes[..end]).map_err(|_| "chunk size is not text")?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("chunk size {digits:?}"));
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| "chunk size is too large")?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(..size).ok_or("a chunk is short")?);
        bytes = bytes[size..].strip_prefix(b"\r\n").ok_or("a chunk is long")?;
    }
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        return Ok((body, rest));
    }
    let end = find(bytes, b"\r\n\r\n").ok_or("no end of trailers")?;
    for line in lines(&bytes[..end])? {
        let (name, _) = field(&line)?;
        let never =
            ["content-length", "transfer-encoding", "host", "authorization", "cookie", "content-type"];
        if never.contains(&name.as_str()) || name.starts_with("x-forwarded") || name.starts_with("culvert") {
            return Err(format!("trailer {name}"));
        }
    }
    Ok((body, &bytes[end + 4..]))
}

fn values<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
}

fn count(fields: &[(String, Vec<u8>)], name: &str) -> usize {
    values(fields, name).len()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
