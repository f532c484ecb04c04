//! HTTP CONNECT (RFC 9110 §9.3.6), with the Basic scheme (RFC 7617) where the proxy's URL has a user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use culvert_certs::Secret;
use culvert_protocol::http1::head::{parse_response, whole_head};
use culvert_protocol::http1::{Limits, Refusal};
use culvert_protocol::message::ResponseHead;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Login, ProxyFailure};
use crate::dial::stream::Outer;

/// An answer's head, with room for what proxies like to say about themselves.
const HEAD: usize = 16 * 1024;

pub(super) async fn connect(
    mut stream: Outer,
    host: &str,
    port: u16,
    login: Option<&Login>,
) -> Result<Outer, ProxyFailure> {
    let request = request(host, port, login);
    stream.write_all(request.expose().as_bytes()).await.map_err(ProxyFailure::Io)?;
    stream.flush().await.map_err(ProxyFailure::Io)?;

    let limits = Limits { head: HEAD, ..Limits::default() };
    let (mut input, mut scanned) = (BytesMut::with_capacity(1024), 0);
    let end = loop {
        if let Some(end) = whole_head(&input, &mut scanned)? {
            break end;
        }
        if input.len() >= HEAD {
            return Err(Refusal::HeadTooLarge.into());
        }
        if stream.read_buf(&mut input).await.map_err(ProxyFailure::Io)? == 0 {
            return Err(ProxyFailure::Cut);
        }
    };
    let mut answer = ResponseHead::default();
    parse_response(&input, &limits, b"CONNECT", &mut answer)?;
    match (answer.status, login) {
        // A relay waits for our first word.
        (200..=299, _) if input.len() > end => {
            Err(ProxyFailure::Foreign("it says more than it should".into()))
        }
        (200..=299, _) => Ok(stream),
        // 401 is an origin's, and yet what some proxies say to a password that they do not know.
        (401 | 407, None) => Err(ProxyFailure::NoLogin),
        (401 | 407, Some(_)) => Err(ProxyFailure::WrongLogin),
        (status, _) => Err(ProxyFailure::Status(status)),
    }
}

fn request(host: &str, port: u16, login: Option<&Login>) -> Secret<String> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
    if let Some(Login { user, password }) = login {
        let pair = Secret::new(format!("{}:{}", user.expose(), password.expose()));
        request.push_str("Proxy-Authorization: Basic ");
        STANDARD.encode_string(pair.expose(), &mut request);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    Secret::new(request)
}
