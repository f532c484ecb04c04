//! Which proxy the TCP rungs go through, as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, and how each kind of proxy is asked
//! for a connection (`connect`, `socks`). Reads no environment: the values come from `main`. Passwords are in here, and in no
//! text that leaves it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_certs::Secret;
use culvert_certs::tls::{Trust, origin_client};
use culvert_protocol::http1::Refusal;
use culvert_protocol::tunnel::tune_tcp;
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::Outer;
use crate::address::{host_and_port, write_host_and_port};

mod connect;
mod socks;

/// What the environment says. The default: no proxy.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    proxy: Option<Result<Arc<Proxy>, BadProxy>>,
    except: Exceptions,
}

/// One proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// HTTP CONNECT.
    Http,
    /// The same inside TLS.
    Https,
    Socks5,
}

#[derive(Debug)]
struct Login {
    user: Secret<String>,
    password: Secret<String>,
}

/// The value itself is not repeated: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not the URL of a proxy: write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before HOST if need be"
)]
pub struct BadProxy(String);

/// Why a proxy gives no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyFailure {
    #[error("connecting to the proxy: {}", super::plain(.0))]
    Connect(io::Error),
    #[error("the TLS to the proxy: {}", super::plain(.0))]
    Tls(io::Error),
    #[error("the proxy wants a user and a password: put them into its URL")]
    NoLogin,
    #[error("the proxy does not take the user and the password of its URL")]
    WrongLogin,
    /// An HTTP status.
    #[error("the proxy does not connect there: it answers {0}")]
    Status(u16),
    /// A reply of RFC 1928 §6, in words.
    #[error("the proxy does not connect there: {0}")]
    Reply(&'static str),
    #[error("the proxy ended the connection")]
    Cut,
    #[error("what answers there is no proxy of this kind: {0}")]
    Foreign(String),
    #[error("talking to the proxy: {}", super::plain(.0))]
    Io(io::Error),
}

impl From<Refusal> for ProxyFailure {
    fn from(refusal: Refusal) -> Self {
        Self::Foreign(refusal.to_string())
    }
}

impl Proxies {
    /// Of the values of variables, by their names. The first that is there and not empty counts.
    pub fn new<'a>(
        variables: impl IntoIterator<Item = (&'a str, Option<String>)>,
        no_proxy: Option<&str>,
    ) -> Self {
        let named = variables
            .into_iter()
            .find_map(|(name, value)| Some((name, value.filter(|text| !text.is_empty())?)));
        let proxy = named
            .map(|(name, text)| Proxy::parse(&text).map(Arc::new).ok_or_else(|| BadProxy(name.to_owned())));
        Self { proxy, except: Exceptions::parse(no_proxy.unwrap_or_default()) }
    }

    /// The one between us and there.
    pub(super) fn toward(&self, host: &str, port: u16) -> Result<Option<Arc<Proxy>>, BadProxy> {
        match &self.proxy {
            Some(proxy) if !self.except.hold(host, port) => proxy.clone().map(Some),
            Some(_) | None => Ok(None),
        }
    }
}

impl Proxy {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = match text.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => (Kind::Http, rest),
                "https" => (Kind::Https, rest),
                // The relay's name is the proxy's to resolve in both.
                "socks5" | "socks5h" => (Kind::Socks5, rest),
                _ => return None,
            },
            None => (Kind::Http, text),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if path.contains('@') {
            // A password with such a character in it that is not percent-encoded. What stands before is no host.
            return None;
        }
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let login =
                    Login { user: Secret::new(decode(user)?), password: Secret::new(decode(password)?) };
                (Some(login), place)
            }
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        ServerName::try_from(host).ok()?;
        let default = match kind {
            Kind::Http => 80,
            Kind::Https => 443,
            Kind::Socks5 => 1080,
        };
        Some(Self { kind, host: host.to_owned(), port: port.unwrap_or(default), login })
    }

    /// A connection to `host:port` by way of the proxy. The caller limits how long all of it may take.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<Outer, ProxyFailure> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(ProxyFailure::Connect)?;
        tune_tcp(&tcp).map_err(ProxyFailure::Connect)?;
        match self.kind {
            Kind::Http => connect::connect(Box::new(tcp), host, port, self.login.as_ref()).await,
            Kind::Https => {
                let tls = self.tls(tcp).await.map_err(ProxyFailure::Tls)?;
                connect::connect(tls, host, port, self.login.as_ref()).await
            }
            Kind::Socks5 => socks::connect(Box::new(tcp), host, port, self.login.as_ref()).await,
        }
    }

    /// Verified, unlike the TLS of an ingress: the password is shown inside.
    async fn tls(&self, tcp: TcpStream) -> io::Result<Outer> {
        let mut config = origin_client(Trust::System).map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://")?;
        write_host_and_port(f, &self.host, self.port)
    }
}

/// What percent signs stand for (RFC 3986 §2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

/// `NO_PROXY`: `*`, names with everything below them, addresses, networks, each with a port or without.
#[derive(Clone, Debug, Default)]
struct Exceptions(Vec<(Exception, Option<u16>)>);

#[derive(Clone, Debug)]
enum Exception {
    Everything,
    Network(IpNet),
    /// In lower case, without dots around it.
    Domain(String),
}

impl Exceptions {
    /// What cannot be understood is not there: the variable is other programs' too.
    fn parse(text: &str) -> Self {
        let words = text.split([',', ' ', '\t']).map(str::trim).filter(|word| !word.is_empty());
        Self(words.filter_map(Exception::parse).collect())
    }

    fn hold(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        self.0.iter().any(|(exception, only)| {
            only.is_none_or(|only| only == port)
                && match exception {
                    Exception::Everything => true,
                    Exception::Network(network) => address.is_some_and(|address| network.contains(&address)),
                    Exception::Domain(domain) => host
                        .strip_suffix(domain.as_str())
                        .is_some_and(|before| before.is_empty() || before.ends_with('.')),
                }
        })
    }
}

impl Exception {
    fn parse(word: &str) -> Option<(Self, Option<u16>)> {
        if word == "*" {
            return Some((Self::Everything, None));
        }
        if let Ok(network) = word.parse::<IpNet>() {
            return Some((Self::Network(network), None));
        }
        let (host, port) = host_and_port(word)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some((Self::Network(address.to_canonical().into()), port));
        }
        // `*.example.com` and `.example.com` are how some write what `example.com` says.
        let domain = host.trim_start_matches('*').trim_matches('.').to_ascii_lowercase();
        (!domain.is_empty()).then_some((Self::Domain(domain), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)], no_proxy: &str) -> Proxies {
        Proxies::new(variables.iter().map(|(name, value)| (*name, Some((*value).to_owned()))), Some(no_proxy))
    }

    #[test]
    fn proxies_are_written_as_everywhere() {
        for (typed, shown) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128"),
            ("http://proxy.corp:3128/", "http://proxy.corp:3128"),
            ("proxy.corp:3128", "http://proxy.corp:3128"),
            ("HTTPS://proxy.corp", "https://proxy.corp:443"),
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("socks5h://[::1]:9", "socks5://[::1]:9"),
            ("http://us%40er:p%3ass@proxy", "http://proxy:80"),
        ] {
            let proxy = proxies(&[("HTTPS_PROXY", typed)], "").toward("relay", 1).unwrap().unwrap();
            assert_eq!(proxy.to_string(), shown, "{typed}");
        }
        let proxy = Proxy::parse("http://us%40er:p%3ass@proxy").unwrap();
        let login = proxy.login.as_ref().unwrap();
        assert_eq!((login.user.expose().as_str(), login.password.expose().as_str()), ("us@er", "p:ss"));
        let debugged = format!("{proxy:?}");
        assert!(!debugged.contains("us@er") && !debugged.contains("p:ss"), "{debugged}");
    }

    #[test]
    fn what_is_no_proxy_is_named_by_its_variable_alone() {
        for typed in [
            "ftp://x",
            "http://",
            "http://user:hunter2@",
            "http://user:%zz@x",
            "socks4://hunter2@x",
            "http://alice:1234/hunter2@127.0.0.1:9",
            "http://alice:hunter2?@proxy:9",
            "socks5://alice:hunter2#1@proxy:9",
            "alice:1234/hunter2@proxy:9",
            "http://a b",
        ] {
            let error = proxies(&[("ALL_PROXY", typed)], "").toward("relay", 1).unwrap_err().to_string();
            assert!(error.starts_with("ALL_PROXY "), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("alice"), "{error}");
        }
    }

    #[test]
    fn the_first_variable_that_says_something_counts() {
        let proxy = |variables: &[(&str, &str)]| {
            proxies(variables, "").toward("relay", 1).unwrap().map(|proxy| proxy.to_string())
        };
        assert_eq!(proxy(&[]), None);
        assert_eq!(proxy(&[("a", ""), ("b", "x:1"), ("c", "y:1")]).unwrap(), "http://x:1");
    }

    #[test]
    fn no_proxy_means_what_it_means_elsewhere() {
        let direct = |no_proxy: &str, host: &str, port: u16| {
            proxies(&[("HTTPS_PROXY", "x:1")], no_proxy).toward(host, port).unwrap().is_none()
        };
        for (no_proxy, host) in [
            ("*", "relay.example.com"),
            ("example.com", "example.com"),
            ("example.com", "relay.Example.com"),
            (".example.com", "relay.example.com"),
            ("*.example.com", "relay.example.com"),
            ("other, example.com", "relay.example.com"),
            ("other example.com", "relay.example.com"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("::1", "::1"),
            ("[::1]:443", "::1"),
            ("fd00::/8", "fd00::5"),
            ("relay:443", "relay"),
            ("relay", "relay."),
        ] {
            assert!(direct(no_proxy, host, 443), "{no_proxy}: {host}");
        }
        for (no_proxy, host) in [
            ("", "relay.example.com"),
            ("example.com", "notexample.com"),
            ("relay.example.com", "example.com"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/8", "relay"),
            ("relay:444", "relay"),
            ("10.0.0.0/99, //", "10.1.2.3"),
        ] {
            assert!(!direct(no_proxy, host, 443), "{no_proxy}: {host}");
        }
    }
}
