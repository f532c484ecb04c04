//! SOCKS 5 (RFC 1928), with user and password (RFC 1929) where the proxy's URL has them. Names go to the proxy unresolved.

use std::io;
use std::net::IpAddr;

use culvert_certs::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Login, ProxyFailure};
use crate::dial::stream::Outer;

const VERSION: u8 = 5;
const OPEN: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_OF_THEM: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

pub(super) async fn connect(
    mut stream: Outer,
    host: &str,
    port: u16,
    login: Option<&Login>,
) -> Result<Outer, ProxyFailure> {
    let methods: &[u8] = if login.is_some() { &[VERSION, 2, OPEN, PASSWORD] } else { &[VERSION, 1, OPEN] };
    say(&mut stream, methods).await?;
    match (hear::<2>(&mut stream).await?, login) {
        ([VERSION, OPEN], _) => {}
        ([VERSION, PASSWORD], Some(login)) => authenticate(&mut stream, login).await?,
        ([VERSION, PASSWORD | NONE_OF_THEM], None) => return Err(ProxyFailure::NoLogin),
        ([VERSION, NONE_OF_THEM], Some(_)) => return Err(ProxyFailure::WrongLogin),
        ([VERSION, _], _) => {
            return Err(ProxyFailure::Foreign("it wants a login that was not offered".into()));
        }
        _ => return Err(foreign()),
    }

    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            request.push(NAME);
            counted(&mut request, host)?;
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    say(&mut stream, &request).await?;

    let [version, reply, _, kind] = hear::<4>(&mut stream).await?;
    if version != VERSION {
        return Err(foreign());
    }
    if reply != 0 {
        return Err(ProxyFailure::Reply(in_words(reply)));
    }
    // The address that the proxy speaks from is nothing to us.
    match kind {
        IPV4 => drop(hear::<6>(&mut stream).await?),
        IPV6 => drop(hear::<18>(&mut stream).await?),
        NAME => {
            let [length] = hear::<1>(&mut stream).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            stream.read_exact(&mut rest).await.map_err(unread)?;
        }
        _ => return Err(foreign()),
    }
    Ok(stream)
}

async fn authenticate(stream: &mut Outer, login: &Login) -> Result<(), ProxyFailure> {
    // Room for the longest, so that no copy is left behind by growing.
    let mut request = Vec::with_capacity(3 + 2 * 255);
    request.push(1);
    counted(&mut request, login.user.expose())?;
    counted(&mut request, login.password.expose())?;
    let request = Secret::new(request);
    say(stream, request.expose()).await?;
    match hear::<2>(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(ProxyFailure::WrongLogin),
    }
}

/// A length of one byte, and so many bytes.
fn counted(out: &mut Vec<u8>, text: &str) -> Result<(), ProxyFailure> {
    let length = u8::try_from(text.len());
    out.push(
        length.map_err(|_| ProxyFailure::Reply("a name, user or password is longer than SOCKS can say"))?,
    );
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

async fn say(stream: &mut Outer, bytes: &[u8]) -> Result<(), ProxyFailure> {
    stream.write_all(bytes).await.map_err(ProxyFailure::Io)?;
    stream.flush().await.map_err(ProxyFailure::Io)
}

/// Never more than is asked for: what comes behind it is the relay's.
async fn hear<const LENGTH: usize>(stream: &mut Outer) -> Result<[u8; LENGTH], ProxyFailure> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes).await.map_err(unread)?;
    Ok(bytes)
}

fn unread(error: io::Error) -> ProxyFailure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProxyFailure::Cut,
        _ => ProxyFailure::Io(error),
    }
}

fn foreign() -> ProxyFailure {
    ProxyFailure::Foreign("it does not speak SOCKS 5".into())
}

/// RFC 1928 §6.
fn in_words(reply: u8) -> &'static str {
    match reply {
        1 => "it failed",
        2 => "its rules forbid it",
        3 => "the network is unreachable from there",
        4 => "the host is unreachable from there",
        5 => "the connection was refused",
        6 => "it took too long",
        7 => "it does not know the command",
        8 => "it does not know this kind of address",
        _ => "it says no, and not why",
    }
}
