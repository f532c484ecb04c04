//! SOCKS5: methods, user and password where they are wanted, the target, an answer, and then the bytes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Asked, Desk};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// RFC 1928 section 6.
const DONE: u8 = 0;
const NOT_ALLOWED: u8 = 2;
const UNREACHABLE: u8 = 4;
const COMMAND: u8 = 7;
const ADDRESS: u8 = 8;

/// Where the client is led, if it is.
pub(super) async fn ask(client: &mut TcpStream, desk: &Desk) -> io::Result<Option<TcpStream>> {
    if client.read_u8().await? != VERSION {
        desk.note(Asked::Malformed);
        return Ok(None);
    }
    let methods = text(client).await?;
    let wanted = desk.wanted();
    let method = if wanted.is_some() { USER_AND_PASSWORD } else { NO_AUTHENTICATION };
    if !methods.contains(&method) {
        desk.note(Asked::Unknown);
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Ok(None);
    }
    client.write_all(&[VERSION, method]).await?;
    if let Some((user, password)) = wanted {
        let version = client.read_u8().await?;
        let said = (text(client).await?, text(client).await?);
        let right = version == 1 && said == (user.into(), password.into());
        client.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            desk.note(Asked::Unknown);
            return Ok(None);
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let [version, command, _, kind] = request;
    let host = match kind {
        1 => {
            let mut octets = [0; 4];
            client.read_exact(&mut octets).await?;
            Some(Ipv4Addr::from(octets).to_string())
        }
        3 => String::from_utf8(text(client).await?).ok(),
        4 => {
            let mut octets = [0; 16];
            client.read_exact(&mut octets).await?;
            Some(Ipv6Addr::from(octets).to_string())
        }
        _ => None,
    };
    let Some(host) = host else {
        desk.note(Asked::Malformed);
        return answer(client, ADDRESS).await;
    };
    let port = client.read_u16().await?;
    if (version, command) != (VERSION, CONNECT) {
        desk.note(Asked::Malformed);
        return answer(client, COMMAND).await;
    }
    match desk.lead(&host, port).await {
        Ok(target) => {
            answer(client, DONE).await?;
            Ok(Some(target))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => answer(client, NOT_ALLOWED).await,
        Err(_) => answer(client, UNREACHABLE).await,
    }
}

/// With an address that says nothing, as nobody asks for it.
async fn answer(client: &mut TcpStream, reply: u8) -> io::Result<Option<TcpStream>> {
    client.write_all(&[VERSION, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(None)
}

/// Behind a byte with its length.
async fn text(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut text = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut text).await?;
    Ok(text)
}
