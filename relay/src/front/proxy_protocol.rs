//! Who is behind a load balancer that says so before the first byte (the PROXY protocol, versions 1 and 2).
//!
//! Read to the byte, because what follows may be TLS; taken apart by `ppp`.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Version 1 is a line of at most 107 bytes, with its CR LF.
const LONGEST_LINE: usize = 107;
/// Version 2 has 16 bytes, and then as many as they say; addresses and the usual extras need no more.
const LONGEST_REST: usize = 1024;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header and returns whom it names; `None`: the load balancer speaks for itself (a health check).
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(16, 0);
        stream.read_exact(header.get_mut(12..).unwrap_or_default()).await?;
        let rest = match header.get(14..16) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        if rest > LONGEST_REST {
            return Err(malformed("longer than any address needs"));
        }
        header.resize(16 + rest, 0);
        stream.read_exact(header.get_mut(16..).unwrap_or_default()).await?;
    } else {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LONGEST_LINE || !header.starts_with(b"PROXY ") {
                return Err(malformed("no PROXY header"));
            }
            header.push(stream.read_u8().await?);
        }
    }
    named(&header)
}

fn named(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    let parsed = HeaderResult::parse(header);
    if parsed.is_incomplete() {
        return Err(malformed("an incomplete PROXY header"));
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(named) => Some((named.source_address, named.source_port).into()),
            v1::Addresses::Tcp6(named) => Some((named.source_address, named.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(named) => Some((named.source_address, named.source_port).into()),
            v2::Addresses::IPv6(named) => Some((named.source_address, named.source_port).into()),
            v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(malformed("a malformed PROXY header")),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn heard(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.write_all(bytes).await.unwrap();
        sender.shutdown().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let named = read(&mut stream).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (named, rest)
    }

    #[tokio::test]
    async fn both_versions_name_the_caller_and_leave_what_follows() {
        let mut second = SIGNATURE.to_vec();
        second.extend_from_slice(&[0x21, 0x11, 0, 12, 10, 0, 0, 9, 10, 0, 0, 1, 0x1f, 0x90, 0, 80]);
        for header in [b"PROXY TCP4 10.0.0.9 10.0.0.1 8080 80\r\n".to_vec(), second] {
            let (named, rest) = heard(&[&header[..], b"GET /"].concat()).await;
            assert_eq!(named.unwrap(), Some("10.0.0.9:8080".parse().unwrap()));
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn a_health_check_names_nobody() {
        assert_eq!(heard(b"PROXY UNKNOWN\r\n").await.0.unwrap(), None);
        let mut local = SIGNATURE.to_vec();
        local.extend_from_slice(&[0x20, 0, 0, 0]);
        assert_eq!(heard(&local).await.0.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_and_never_waited_for_without_end() {
        let endless = [&b"PROXY "[..], &[b'a'; 200]].concat();
        let mut long = SIGNATURE.to_vec();
        long.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 x y z\r\n", b"PROXY", &endless, &long] {
            assert!(heard(bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}
