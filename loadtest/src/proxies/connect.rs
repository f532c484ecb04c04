//! HTTP CONNECT: one head, one answer, and then the bytes.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Asked, Desk};

/// More than any client says.
const HEAD: usize = 8 * 1024;

/// Where the client is led, if it is.
pub(super) async fn ask(client: &mut TcpStream, desk: &Desk) -> io::Result<Option<TcpStream>> {
    let Some(head) = head(client).await? else {
        desk.note(Asked::Malformed);
        return answer(client, "400 Bad Request", "").await;
    };
    let mut lines = head.split("\r\n");
    let asked = lines.next().and_then(target);
    let Some((host, port)) = asked else {
        desk.note(Asked::Malformed);
        return answer(client, "405 Method Not Allowed", "").await;
    };
    if let Some((user, password)) = desk.wanted() {
        let right = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let said = lines.filter_map(|line| line.split_once(':'));
        let mut said = said.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
        if said.next().is_none_or(|(_, value)| value.trim() != right) {
            desk.note(Asked::Unknown);
            let field = "Proxy-Authenticate: Basic realm=\"proxy\"\r\n";
            return answer(client, "407 Proxy Authentication Required", field).await;
        }
    }
    match desk.lead(host, port).await {
        Ok(target) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            Ok(Some(target))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            answer(client, "403 Forbidden", "").await
        }
        Err(_) => answer(client, "502 Bad Gateway", "").await,
    }
}

async fn answer(client: &mut TcpStream, status: &str, fields: &str) -> io::Result<Option<TcpStream>> {
    let text = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 3\r\nConnection: close\r\n\r\nno\n");
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    Ok(None)
}

/// `CONNECT host:port HTTP/1.1`
fn target(line: &str) -> Option<(&str, u16)> {
    let (host, port) = line.strip_prefix("CONNECT ")?.split(' ').next()?.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

/// Not a byte more than the head, which a client may follow up at once. None: it is none.
async fn head(client: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Ok(None);
        }
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head).ok())
}
