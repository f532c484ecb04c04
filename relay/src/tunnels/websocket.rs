//! What a stream of TLS runs on: TCP itself, or a WebSocket on TCP that an HTTP ingress has brought here. Which of the two, the
//! first byte says, so that one port serves both. What the WebSocket's request says of hosts, paths and callers is not
//! looked at: who is there is found out inside, by the TLS that runs in it.

use std::fmt::Debug;
use std::io;

use culvert_protocol::tunnel::{Transport, UpgradeError, WebSocket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The first byte of `GET`, with which every WebSocket over HTTP/1 begins. TLS begins with 22, a record of a handshake.
const GET: u8 = b'G';

/// Boxed once per tunnel, so that whatever brought it, what runs in it is one type.
pub(super) type Outer = Box<dyn ByteStream>;

pub(super) trait ByteStream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> ByteStream for T {}

/// The caller limits how long it may take; bytes are limited here.
pub(super) async fn unwrap(stream: TcpStream) -> Result<(Transport, Outer), UpgradeError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if first == [GET] {
        Ok((Transport::WebSocket, Box::new(WebSocket::accept(stream).await?)))
    } else {
        Ok((Transport::Tls, Box::new(stream)))
    }
}
