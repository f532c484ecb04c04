//! Where a service's requests go when nobody claims them. Holds no connection and resolves no name: the address is
//! looked up at each connect, because a cluster's services move.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustls::pki_types::ServerName;

use super::tls::UpstreamTls;

/// An in-cluster service. Written `http://HOST[:PORT]`, `h2c://HOST:PORT`, `https://HOST[:PORT]` or `unix:/PATH`. Hosts
/// are names, or addresses without brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upstream {
    /// HTTP/1.1 over TCP.
    Http { host: String, port: u16 },
    /// HTTP/2 over TCP, by prior knowledge (RFC 9113 §3.3).
    H2c { host: String, port: u16 },
    /// HTTP/2 or HTTP/1.1 over TLS, as the upstream chooses.
    Https { host: String, port: u16, tls: UpstreamTls },
    /// HTTP/1.1 over a Unix socket.
    Unix { path: PathBuf },
}

/// Why a text names no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("not an upstream: write http://HOST:PORT, h2c://HOST:PORT, https://HOST:PORT or unix:/PATH")]
    Form,
    #[error("an upstream has no path, query or user: write only the scheme, the host and the port")]
    MoreThanAuthority,
    #[error("not an upstream: its host is neither a name nor an address")]
    Host,
    #[error("not an upstream: its port is not a number from 1 to 65535")]
    Port,
    #[error("not an upstream: h2c has no port of its own, so write h2c://HOST:PORT")]
    NoPort,
    #[error("not an upstream: a Unix socket's path starts with `/`, as in unix:/run/app.sock")]
    Path,
}

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let (scheme, rest) = text.split_once(':').ok_or(UpstreamError::Form)?;
        let authority = |default| authority(rest.strip_prefix("//").ok_or(UpstreamError::Form)?, default);
        match scheme {
            "http" => authority(Some(80)).map(|(host, port, _)| Self::Http { host, port }),
            "h2c" => authority(None).map(|(host, port, _)| Self::H2c { host, port }),
            "https" => authority(Some(443)).map(|(host, port, name)| {
                // Until something else is said of it.
                Self::Https { host, port, tls: UpstreamTls::of(name) }
            }),
            "unix" => unix(rest),
            _ => Err(UpstreamError::Form),
        }
    }
}

/// A host, a port, and the name that a certificate would have to bear.
fn authority(rest: &str, default: Option<u16>) -> Result<(String, u16, ServerName<'static>), UpstreamError> {
    // A lone slash is how URLs are often written out; anything after it would silently be dropped.
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(UpstreamError::MoreThanAuthority);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or(UpstreamError::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UpstreamError::Host)?;
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(UpstreamError::Host),
                port => (host, port),
            }
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    // The same rules as for a certificate's names: letters, digits, hyphens and dots, or an IP address.
    let name = ServerName::try_from(host).map_err(|_| UpstreamError::Host)?.to_owned();
    let port = match port {
        Some(port) => number(port).ok_or(UpstreamError::Port)?,
        None => default.ok_or(UpstreamError::NoPort)?,
    };
    Ok((host.to_owned(), port, name))
}

/// A port, in digits only: `u16::from_str` takes `+80`, which no URL may say.
fn number(port: &str) -> Option<u16> {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|port| plain && *port != 0)
}

fn unix(path: &str) -> Result<Upstream, UpstreamError> {
    // `unix:///run/app.sock` means the same as `unix:/run/app.sock`.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.contains('\0') {
        return Err(UpstreamError::Path);
    }
    Ok(Upstream::Unix { path: PathBuf::from(path) })
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Http { host, port } => ("http", host, port),
            Self::H2c { host, port } => ("h2c", host, port),
            Self::Https { host, port, .. } => ("https", host, port),
            Self::Unix { path } => return write!(f, "unix:{}", path.display()),
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upstream_prints_is_what_it_is_read_from() {
        for text in [
            "http://127.0.0.1:9001",
            "http://[::1]:9001",
            "http://orders.shop.svc:80",
            "h2c://orders:50051",
            "h2c://[::1]:50051",
            "https://orders.shop.svc:443",
            "https://[::1]:8443",
            "unix:/run/app.sock",
        ] {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
        }
        for (typed, printed) in [
            ("http://orders/", "http://orders:80"),
            ("http://[::1]", "http://[::1]:80"),
            ("https://orders", "https://orders:443"),
            ("https://[::1]/", "https://[::1]:443"),
            ("unix:///run/a", "unix:/run/a"),
        ] {
            assert_eq!(typed.parse::<Upstream>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn an_upstream_that_cannot_be_dialled_is_refused() {
        use UpstreamError::*;
        for (text, error) in [
            ("", Form),
            ("127.0.0.1:9001", Form),
            ("ftp://a", Form),
            ("http:/a", Form),
            ("https:a", Form),
            ("HTTP://a", Form),
            ("h2c+unix:/run/app.sock", Form),
            ("h2c://a", NoPort),
            ("h2c://[::1]/", NoPort),
            ("h2c://a:0", Port),
            ("https://", Host),
            ("https://a:443/api", MoreThanAuthority),
            ("https://*.a", Host),
            ("http://", Host),
            ("http://:80", Host),
            ("http://a b", Host),
            ("http://[::1", Host),
            ("http://[::1]x", Host),
            ("http://[a]:1", Host),
            ("http://a:0", Port),
            ("http://a:+80", Port),
            ("http://a:8 0", Port),
            ("http://a:1:2", Port),
            ("http://[::1]:", Port),
            ("http://a:65536", Port),
            ("http://a:", Port),
            ("http://a:80/api", MoreThanAuthority),
            ("http://a:80?x", MoreThanAuthority),
            ("http://me:secret@a", MoreThanAuthority),
            ("unix:run/app.sock", Path),
            ("unix:", Path),
        ] {
            assert_eq!(text.parse::<Upstream>(), Err(error), "{text}");
        }
    }
}
