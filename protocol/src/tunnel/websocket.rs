//! A byte stream inside the binary messages of a WebSocket (RFC 6455), for ways that let nothing but HTTP pass. What runs in
//! it is our own TLS, so that nothing here is believed: not the host or path that was asked for, not who ended an outer TLS.
//!
//! The handshake is our own HTTP/1 codec's, as strict as everywhere. The frames (masks, control frames, fragments, lengths)
//! are tungstenite's: it is kept by its authors, fuzzed, needs no HTTP stack of its own, and takes any byte stream.
//! Holds no socket and no limit of time: who dials or accepts sets it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes as Payload, Error as FrameError};

use crate::http1::head::{encode_request, encode_response, parse_request, parse_response, whole_head};
use crate::http1::{Limits, Refusal, Reply};
use crate::http2::websocket::accept as accept_key;
use crate::message::{Body, RequestHead, ResponseHead, list_contains};

/// What an ingress adds to a request of ours fits several times over.
const HEAD: usize = 16 * 1024;

/// The most that one message carries: four TLS records, one write of the multiplexer's.
const MESSAGE: usize = 64 * 1024;

/// What is in between may put messages together. Larger ones are nobody's.
const LARGEST: usize = 4 * MESSAGE;

/// Allocated at once, and grown only for larger frames: most tunnels are idle most of the time.
const READ_BUFFER: usize = 4 * 1024;

const KEY: &str = "sec-websocket-key";
const VERSION: &str = "sec-websocket-version";

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of the WebSocket's handshake")]
    Cut,
    #[error("what came is not HTTP: {0}")]
    NotHttp(#[from] Refusal),
    /// From there on nobody but the dialler is to blame.
    #[error("the request asks for no WebSocket")]
    NotAsked,
    /// `0` is the status of the answer.
    #[error("the answer to the WebSocket is {0}")]
    Refused(u16),
    #[error("the answer agrees to another WebSocket than was asked for")]
    Mismatch,
}

/// The bytes inside a WebSocket.
#[derive(Debug)]
pub struct WebSocket<T> {
    frames: WebSocketStream<T>,
    /// What of the newest message is not read yet.
    unread: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocket<T> {
    /// Asks for one at `path` (origin-form) of `host` (with its port where that is not the scheme's own).
    pub async fn dial(mut io: T, host: &str, path: &str) -> Result<Self, UpgradeError> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let mut request = RequestHead {
            method: b"GET".to_vec(),
            target: path.as_bytes().to_vec(),
            upgrade: b"websocket".to_vec(),
            ..RequestHead::default()
        };
        request.fields.push(b"host", host.as_bytes());
        request.fields.push(KEY.as_bytes(), key.as_bytes());
        request.fields.push(VERSION.as_bytes(), b"13");
        request.check().map_err(|_| Refusal::Target)?;
        let mut out = Vec::new();
        encode_request(&request, &mut out);
        io.write_all(&out).await?;
        io.flush().await?;

        let mut answer = ResponseHead::default();
        let rest =
            head(&mut io, |input, limits| Ok(parse_response(input, limits, b"GET", &mut answer)?.0)).await?;
        if answer.status != 101 {
            return Err(UpgradeError::Refused(answer.status));
        }
        let agreed = answer.fields.all("sec-websocket-accept").eq([accept_key(key.as_bytes()).as_bytes()]);
        if !agreed || !answer.upgrade.eq_ignore_ascii_case(b"websocket") {
            return Err(UpgradeError::Mismatch);
        }
        Ok(Self::new(io, rest, Role::Client).await)
    }

    /// Agrees to one. Who asks for anything else is told what this is.
    pub async fn accept(mut io: T) -> Result<Self, UpgradeError> {
        let mut request = RequestHead::default();
        let rest = head(&mut io, |input, limits| Ok(parse_request(input, limits, &mut request)?.0)).await?;
        let keys: Vec<_> = request.fields.all(KEY).collect();
        let asked = request.is("GET")
            && list_contains(&request.upgrade, b"websocket")
            && request.fields.all(VERSION).eq([b"13"]);
        let mut answer = ResponseHead { upgrade: b"websocket".to_vec(), ..ResponseHead::default() };
        let key = match keys.as_slice() {
            [key] if asked && STANDARD.decode(key).is_ok_and(|key| key.len() == 16) => *key,
            _ => {
                answer.status = 426;
                answer.fields.push(b"upgrade", b"websocket");
                answer.fields.push(VERSION.as_bytes(), b"13");
                answer.body = Body::Empty;
                say(&mut io, &answer).await?;
                return Err(UpgradeError::NotAsked);
            }
        };
        answer.status = 101;
        answer.fields.push(b"sec-websocket-accept", accept_key(key).as_bytes());
        say(&mut io, &answer).await?;
        Ok(Self::new(io, rest, Role::Server).await)
    }

    async fn new(io: T, rest: BytesMut, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Each message is a whole write: the multiplexer has gathered it already.
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MESSAGE)
            .max_frame_size(Some(LARGEST))
            .max_message_size(Some(LARGEST));
        let frames = WebSocketStream::from_partially_read(io, rest.into(), role, Some(config)).await;
        Self { frames, unread: Bytes::new() }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: impl FnOnce() -> Payload,
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(broken)?;
        let message = message();
        let length = message.len();
        Pin::new(&mut self.frames).start_send(Message::Binary(message)).map_err(broken)?;
        Poll::Ready(Ok(length))
    }
}

/// Reads up to the end of a head, bounded. What came behind it is returned.
async fn head<T: AsyncRead + Unpin>(
    io: &mut T,
    parse: impl FnOnce(&[u8], &Limits) -> Result<usize, Refusal>,
) -> Result<BytesMut, UpgradeError> {
    let limits = Limits { head: HEAD, ..Limits::default() };
    let mut input = BytesMut::with_capacity(1024);
    let mut scanned = 0;
    while whole_head(&input, &mut scanned)?.is_none() {
        if input.len() >= HEAD {
            return Err(Refusal::HeadTooLarge.into());
        }
        if io.read_buf(&mut input).await? == 0 {
            return Err(UpgradeError::Cut);
        }
    }
    let length = parse(&input, &limits)?;
    input.advance(length.min(input.len()));
    Ok(input)
}

async fn say<T: AsyncWrite + Unpin>(io: &mut T, answer: &ResponseHead) -> io::Result<()> {
    let mut out = Vec::new();
    encode_response(answer, Reply::default(), &mut out);
    io.write_all(&out).await?;
    io.flush().await
}

fn broken(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        FrameError::ConnectionClosed | FrameError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        // The bytes underneath ended, as they do when a process dies.
        FrameError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            io::ErrorKind::UnexpectedEof.into()
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)).transpose().map_err(broken)? {
                Some(Message::Binary(bytes)) => self.unread = bytes,
                // Pings are answered by tungstenite, with what is written next or by the next read.
                Some(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {}
                Some(Message::Text(_)) => {
                    let text = "the WebSocket carries text, and a tunnel is binary";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.get(..MESSAGE).unwrap_or(bytes);
        self.get_mut().poll_send(cx, || Payload::copy_from_slice(taken))
    }

    /// All of it in one message: a batch of TLS records is one write.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, || {
            let length = slices.iter().map(|slice| slice.len()).sum::<usize>().min(MESSAGE);
            let mut message = Vec::with_capacity(length);
            for slice in slices {
                let room = MESSAGE - message.len();
                message.extend_from_slice(slice.get(..room).unwrap_or(slice));
            }
            message.into()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().frames).poll_flush(cx).map_err(broken)
    }

    /// Says that it is over. The peer answers that, and the server ends the connection.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().frames).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        let (near, far) = duplex(4096);
        let (dialled, accepted) =
            tokio::join!(WebSocket::dial(near, "relay.example.com", "/tunnel?x=1"), WebSocket::accept(far));
        let (mut near, mut far) = (dialled.unwrap(), accepted.unwrap());
        let sent: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
        for (from, to) in [(&mut near, &mut far)] {
            let writing = async {
                from.write_all(&sent).await.unwrap();
                from.flush().await.unwrap();
            };
            let mut heard = vec![0; sent.len()];
            let (_, read) = tokio::join!(writing, to.read_exact(&mut heard));
            read.unwrap();
            assert!(heard == sent);
        }
        let ending = async {
            near.shutdown().await.unwrap();
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
        };
        let mut rest = Vec::new();
        let (_, end) = tokio::join!(ending, async {
            let end = far.read_to_end(&mut rest).await;
            drop(far);
            end
        });
        assert_eq!(end.unwrap(), 0);
    }

    async fn answer_to(request: &str) -> (String, Result<WebSocket<tokio::io::DuplexStream>, UpgradeError>) {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(request.as_bytes()).await.unwrap();
        near.shutdown().await.unwrap();
        let accepted = WebSocket::accept(far).await;
        let mut heard = vec![0; 4096];
        let length = match &accepted {
            Err(UpgradeError::Cut | UpgradeError::NotHttp(_)) => 0,
            _ => near.read(&mut heard).await.unwrap(),
        };
        heard.truncate(length);
        (String::from_utf8(heard).unwrap(), accepted)
    }

    #[tokio::test]
    async fn who_asks_for_something_else_is_told_what_this_is() {
        for request in [
            "GET / HTTP/1.1\r\nHost: relay\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: relay\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: r\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: r\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ] {
            let (answer, accepted) = answer_to(request).await;
            assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
            assert!(matches!(accepted, Err(UpgradeError::NotAsked)), "{accepted:?}");
        }
        let (answer, accepted) = answer_to(
            "GET / HTTP/1.1\r\nHost: r\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
        assert!(accepted.is_ok());
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn what_is_no_http_or_endless_is_refused() {
        for request in ["\u{16}\u{3}\u{1}\n\n", "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nHost: r\r\n"] {
            assert!(answer_to(request).await.1.is_err(), "{request:?}");
        }
        let endless = format!("GET / HTTP/1.1\r\nHost: r\r\nX: {}", "x".repeat(2 * HEAD));
        let refused = answer_to(&endless).await.1.unwrap_err();
        assert!(matches!(refused, UpgradeError::NotHttp(Refusal::HeadTooLarge)), "{refused}");
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_or_not_masked_ends_it() {
        // FIN and binary; 0xff: masked, with a length of 64 bits. 0x02: not masked.
        let huge = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        let large = [&[0x82, 0xff][..], &(LARGEST as u64 + 1).to_be_bytes(), &[0; 4]].concat();
        for bytes in [huge, large, vec![0x82, 0x02, 1, 2], vec![0x81, 0x81, 0, 0, 0, 0, b'x']] {
            let (mut near, far) = duplex(4096);
            near.write_all(&bytes).await.unwrap();
            let mut socket = WebSocket::new(far, BytesMut::new(), Role::Server).await;
            assert!(socket.read(&mut [0; 16]).await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_agrees_to_nothing_is_named() {
        for (answer, shown) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
            (
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                "another WebSocket",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        ] {
            let (mut far, near) = duplex(4096);
            far.write_all(answer.as_bytes()).await.unwrap();
            let error = WebSocket::dial(near, "relay", "/").await.unwrap_err().to_string();
            assert!(error.contains(shown), "{error}");
        }
    }
}
