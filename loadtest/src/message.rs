//! One HTTP/1 message as a plain reader sees it, for both ends of a test: the judge. It shares nothing with culvert's
//! codec and forgives nothing; it knows no HTTP/2, no limits but one, and no field's meaning but the body's length.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::yield_now;
use tokio::time::sleep;

/// Nothing that a test or the demo sends whole is larger.
const LARGEST: usize = 256 * 1024 * 1024;

/// So many parts of one message are given time to arrive as such.
const FEW: usize = 8;

/// A message, byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Everything, from the first byte of the head to the last of the body.
    pub bytes: Vec<u8>,
    /// Where the head ends and the body begins in `bytes`.
    pub head: usize,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
    /// The lines after the last chunk, with their ends.
    pub trailers: Vec<u8>,
}

impl Message {
    /// The request or status line.
    pub fn line(&self) -> String {
        self.lines().into_iter().next().unwrap_or_default()
    }

    /// The head's lines, in order, without their ends.
    pub fn lines(&self) -> Vec<String> {
        let head = self.bytes.get(..self.head).unwrap_or_default();
        String::from_utf8_lossy(head).trim_end().split("\r\n").map(str::to_owned).collect()
    }

    /// The first field of that name, in any case.
    pub fn field(&self, name: &str) -> Option<String> {
        field(self.bytes.get(..self.head)?, name)
    }

    /// A response's status; 0 when the line has none.
    pub fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// The body, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What is read, because it decides what the end of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    /// Without a body whatever its head says: the answer to HEAD.
    BodilessResponse,
    Response,
}

/// Reads one message after what is left over in `buffer`; None when the peer ends between two.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    kind: Kind,
) -> io::Result<Option<Message>> {
    let head = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if !more(stream, buffer).await? {
            return if buffer.is_empty() { Ok(None) } else { Err(cut()) };
        }
    };
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    let end = match framing(buffer.get(..head).unwrap_or_default(), kind)? {
        Framing::Exact(length) => {
            while buffer.len() < head + length {
                if !more(stream, buffer).await? {
                    return Err(cut());
                }
            }
            body.extend_from_slice(buffer.get(head..head + length).unwrap_or_default());
            head + length
        }
        Framing::Chunked => chunks(stream, buffer, head, &mut body, &mut trailers).await?,
        Framing::UntilClosed => {
            while more(stream, buffer).await? {}
            body.extend_from_slice(buffer.get(head..).unwrap_or_default());
            buffer.len()
        }
    };
    let rest = buffer.split_off(end);
    let bytes = std::mem::replace(buffer, rest);
    Ok(Some(Message { bytes, head, body, trailers }))
}

enum Framing {
    Exact(usize),
    Chunked,
    UntilClosed,
}

fn framing(head: &[u8], kind: Kind) -> io::Result<Framing> {
    if kind == Kind::BodilessResponse {
        return Ok(Framing::Exact(0));
    }
    let status = String::from_utf8_lossy(head).split(' ').nth(1).unwrap_or_default().to_owned();
    if kind == Kind::Response && (status.starts_with('1') || status == "204" || status == "304") {
        return Ok(Framing::Exact(0));
    }
    if let Some(coding) = field(head, "transfer-encoding") {
        return if coding == "chunked" {
            Ok(Framing::Chunked)
        } else {
            Err(bad("a coding that is not chunked"))
        };
    }
    match (field(head, "content-length"), kind) {
        (Some(length), _) => {
            length.parse().map(Framing::Exact).map_err(|_| bad("content-length is no number"))
        }
        (None, Kind::Response) => Ok(Framing::UntilClosed),
        (None, _) => Ok(Framing::Exact(0)),
    }
}

/// Writes bytes in parts, each of which leaves before the next is said: those that end at `cuts`, and what is left.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cuts: &[usize]) -> io::Result<()> {
    let mut at = 0;
    for cut in cuts.iter().map(|cut| (*cut).min(bytes.len())).filter(|cut| *cut > 0) {
        if cut > at {
            stream.write_all(bytes.get(at..cut).unwrap_or_default()).await?;
            at = cut;
            // So that mostly they arrive as parts too; nothing depends on it.
            if cuts.len() <= FEW { sleep(Duration::from_millis(1)).await } else { yield_now().await }
        }
    }
    stream.write_all(bytes.get(at..).unwrap_or_default()).await
}

/// Reads chunks from `at` on into `body`; returns where the message ends.
async fn chunks(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    mut at: usize,
    body: &mut Vec<u8>,
    trailers: &mut Vec<u8>,
) -> io::Result<usize> {
    loop {
        let (size, start) = loop {
            let rest = buffer.get(at..).unwrap_or_default();
            if let Some(end) = find(rest, b"\r\n") {
                let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk without a size"))?;
                break (size, at + end + 2);
            }
            if !more(stream, buffer).await? {
                return Err(cut());
            }
        };
        if size == 0 {
            // Trailers, if any, and the empty line after them; that line alone is the CRLF right here.
            loop {
                let rest = buffer.get(start..).unwrap_or_default();
                if rest.starts_with(b"\r\n") {
                    return Ok(start + 2);
                }
                if let Some(end) = find(rest, b"\r\n\r\n") {
                    trailers.extend_from_slice(rest.get(..end + 2).unwrap_or_default());
                    return Ok(start + end + 4);
                }
                if !more(stream, buffer).await? {
                    return Err(cut());
                }
            }
        }
        while buffer.len() < start + size + 2 {
            if !more(stream, buffer).await? {
                return Err(cut());
            }
        }
        body.extend_from_slice(buffer.get(start..start + size).unwrap_or_default());
        if buffer.get(start + size..start + size + 2) != Some(b"\r\n") {
            return Err(bad("a chunk longer than it said"));
        }
        at = start + size + 2;
    }
}

fn field(head: &[u8], name: &str) -> Option<String> {
    String::from_utf8_lossy(head).split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<bool> {
    if buffer.len() > LARGEST {
        return Err(bad("a message larger than any test's"));
    }
    Ok(stream.read_buf(buffer).await? != 0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn cut() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8], kind: Kind) -> io::Result<Vec<Message>> {
        let (mut stream, mut buffer, mut messages) = (bytes, Vec::new(), Vec::new());
        while let Some(message) = read(&mut stream, &mut buffer, kind).await? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[tokio::test]
    async fn messages_on_one_connection_are_told_apart() {
        let sent = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                     2\r\nde\r\n1;x=y\r\nf\r\n0\r\nt: v\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
        let messages = all(sent, Kind::Request).await.unwrap();
        let told: Vec<_> = messages.iter().map(|message| (message.line(), message.text())).collect();
        let wanted = [("POST /a HTTP/1.1", "abc"), ("PUT /b HTTP/1.1", "def"), ("GET /c HTTP/1.1", "")];
        assert_eq!(told, wanted.map(|(line, body)| (line.to_owned(), body.to_owned())));
        assert_eq!(messages.iter().flat_map(|message| message.bytes.clone()).collect::<Vec<_>>(), sent);
    }

    #[tokio::test]
    async fn a_cut_message_is_an_error_and_never_a_short_one() {
        for sent in ["GET / HT", "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\na"] {
            assert!(all(sent.as_bytes(), Kind::Request).await.is_err(), "{sent}");
        }
        for sent in ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"] {
            assert!(all(sent.as_bytes(), Kind::Response).await.is_err(), "{sent}");
        }
    }
}
