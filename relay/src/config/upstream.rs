//! Where a service's requests go when nobody claims them. Holds no connection and resolves no name: the address is
//! looked up at each connect, because a cluster's services move.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// An in-cluster service. Written `http://HOST:PORT` or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upstream {
    /// HTTP/1.1 over TCP. The host is a name or an address without brackets.
    Http { host: String, port: u16 },
    /// HTTP/1.1 over a Unix socket.
    Unix { path: PathBuf },
}

/// Why a text names no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("not an upstream: write http://HOST:PORT or unix:/PATH")]
    Form,
    #[error("not supported yet: an upstream over {0}; write http://HOST:PORT or unix:/PATH")]
    NotYet(&'static str),
    #[error("an upstream has no path, query or user: write only http://HOST:PORT")]
    MoreThanAuthority,
    #[error("not an upstream: its host is neither a name nor an address")]
    Host,
    #[error("not an upstream: its port is not a number from 1 to 65535")]
    Port,
    #[error("not an upstream: a Unix socket's path starts with `/`, as in unix:/run/app.sock")]
    Path,
}

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let (scheme, rest) = text.split_once(':').ok_or(UpstreamError::Form)?;
        match scheme {
            "http" => http(rest.strip_prefix("//").ok_or(UpstreamError::Form)?),
            "https" => Err(UpstreamError::NotYet("https")),
            "h2c" => Err(UpstreamError::NotYet("h2c")),
            "unix" => unix(rest),
            _ => Err(UpstreamError::Form),
        }
    }
}

fn http(rest: &str) -> Result<Upstream, UpstreamError> {
    // A lone slash is how URLs are often written out; anything after it would silently be dropped.
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(UpstreamError::MoreThanAuthority);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or(UpstreamError::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| UpstreamError::Host)?;
            (
                host,
                rest.strip_prefix(':')
                    .or_else(|| rest.is_empty().then_some("80"))
                    .ok_or(UpstreamError::Host)?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    // The same rules as for a certificate's names: letters, digits, hyphens and dots, or an IP address.
    ServerName::try_from(host).map_err(|_| UpstreamError::Host)?;
    match port.parse::<u16>() {
        Ok(port) if port != 0 && !text_is_signed(authority) => {
            Ok(Upstream::Http { host: host.to_owned(), port })
        }
        Ok(_) | Err(_) => Err(UpstreamError::Port),
    }
}

/// `u16::from_str` takes `+80`, which no URL may say.
fn text_is_signed(authority: &str) -> bool {
    authority.contains('+')
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
        match self {
            Self::Http { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upstream_prints_is_what_it_is_read_from() {
        for text in
            ["http://127.0.0.1:9001", "http://[::1]:9001", "http://orders.shop.svc:80", "unix:/run/app.sock"]
        {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
        }
        assert_eq!("http://orders/".parse::<Upstream>().unwrap().to_string(), "http://orders:80");
        assert_eq!("unix:///run/a".parse::<Upstream>().unwrap().to_string(), "unix:/run/a");
    }

    #[test]
    fn an_upstream_that_cannot_be_dialled_is_refused() {
        use UpstreamError::*;
        for (text, error) in [
            ("", Form),
            ("127.0.0.1:9001", Form),
            ("ftp://a", Form),
            ("http:/a", Form),
            ("https://a", NotYet("https")),
            ("h2c://a:1", NotYet("h2c")),
            ("http://", Host),
            ("http://:80", Host),
            ("http://a b", Host),
            ("http://[::1", Host),
            ("http://[::1]x", Host),
            ("http://[a]:1", Host),
            ("http://a:0", Port),
            ("http://a:+80", Port),
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
