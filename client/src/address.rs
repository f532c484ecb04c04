//! Where a relay is dialled. Kept as text: a name is resolved afresh at each dial, never here.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// A relay's tunnel port in development, and when none is given.
pub const DEFAULT_PORT: u16 = 4433;

/// No path that somebody types is longer, and a file is named by it.
const LONGEST_PATH: usize = 48;

/// `HOST[:PORT]` or `https://HOST[:PORT][/PATH]`, where every transport may be; `wss://…` or `ws://…`, where only a WebSocket
/// is. The port is 4433, 443 after `https://` and `wss://`, 80 after `ws://`, when it is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// A DNS name in lower case or an IP address without brackets: nothing that a file name gives a meaning to.
    host: String,
    port: u16,
    /// Where an HTTP ingress leads to the relay; `/` unless said otherwise.
    path: String,
    only: Option<Web>,
}

/// Whether the HTTP around a WebSocket is in TLS. Our own TLS runs inside either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Web {
    Secure,
    Clear,
}

/// Where a WebSocket may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebAt {
    pub(crate) web: Web,
    pub(crate) port: u16,
}

impl Web {
    const fn port(self) -> u16 {
        match self {
            Self::Secure => 443,
            Self::Clear => 80,
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Secure => "wss",
            Self::Clear => "ws",
        }
    }
}

impl WebAt {
    /// What stands in `Host`.
    pub(crate) fn host(&self, relay: &RelayAddress) -> String {
        let host = relay.host();
        match (self.port == self.web.port(), host.contains(':')) {
            (true, true) => format!("[{host}]"),
            (true, false) => host.to_owned(),
            (false, true) => format!("[{host}]:{}", self.port),
            (false, false) => format!("{host}:{}", self.port),
        }
    }
}

impl RelayAddress {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn is_only_web(&self) -> bool {
        self.only.is_some()
    }

    /// Whether HTTP stands before it for certain.
    pub(crate) fn is_behind_ingress(&self) -> bool {
        self.is_only_web() || self.path != "/"
    }

    /// Where its WebSocket may be, the likeliest place first. Without a URL that says so, an ingress at the same port or
    /// at that of HTTPS, and the relay itself, which needs none.
    pub(crate) fn web(&self) -> Vec<WebAt> {
        let Self { port, .. } = *self;
        match self.only {
            Some(web) => vec![WebAt { web, port }],
            None if self.is_behind_ingress() => vec![WebAt { web: Web::Secure, port }],
            None => {
                let mut places = vec![WebAt { web: Web::Secure, port }];
                if port != Web::Secure.port() {
                    places.push(WebAt { web: Web::Secure, port: Web::Secure.port() });
                }
                places.push(WebAt { web: Web::Clear, port });
                places
            }
        }
    }

    /// What the files of this relay are called. Two paths of one ingress may lead to two relays.
    pub(crate) fn file_stem(&self) -> String {
        // A colon, in an IPv6 address, is not for every file system. No host has an underscore after its last dot,
        // but even one that has keeps its file to itself: the port has none, and the path none either.
        let host = self.host.replace(':', "-");
        let mut stem = format!("{host}_{}", self.port);
        if self.path != "/" {
            stem.push('=');
            for byte in self.path.bytes() {
                match byte {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' => stem.push(char::from(byte)),
                    other => stem.push_str(&format!("={other:02x}")),
                }
            }
        }
        stem
    }

    /// What the relay's certificate must be for.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, AddressError> {
        ServerName::try_from(self.host.clone()).map_err(|_| AddressError(self.host.clone()))
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(excerpt(text));
        let (only, default, rest) = match text.split_once("://") {
            None => (None, DEFAULT_PORT, text),
            Some(("https", rest)) => (None, Web::Secure.port(), rest),
            Some(("wss", rest)) => (Some(Web::Secure), Web::Secure.port(), rest),
            Some(("ws", rest)) => (Some(Web::Clear), Web::Clear.port(), rest),
            Some(_) => return Err(wrong()),
        };
        let (authority, path) = match rest.find('/').filter(|_| rest.len() < text.len()) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\');
        if path.len() > LONGEST_PATH || !path.bytes().all(is_plain) {
            return Err(wrong());
        }
        let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
        let host = host.to_ascii_lowercase();
        match ServerName::try_from(host.as_str()).map_err(|_| wrong())? {
            ServerName::DnsName(_) | ServerName::IpAddress(_) => {}
            _ => return Err(wrong()),
        }
        Ok(Self { host, port: port.unwrap_or(default), path: path.to_owned(), only })
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.only.map(Web::scheme).or_else(|| (self.path != "/").then_some("https"));
        if let Some(scheme) = scheme {
            write!(f, "{scheme}://")?;
        }
        write_host_and_port(f, &self.host, self.port)?;
        if scheme.is_some() { f.write_str(&self.path) } else { Ok(()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a relay's address: write relay.example.com, relay.example.com:4433 or https://relay.example.com"
)]
pub struct AddressError(String);

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare `V6`, without the brackets. The host is not looked at further.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port_number(port)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port)?)),
        None => (text, None),
    };
    (!host.is_empty()).then_some((host, port))
}

/// 1 to 65535, in digits only: `+80` and ` 80` are somebody's typing error.
pub(crate) fn port_number(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

pub(crate) fn write_host_and_port(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// As much of a refused text as an error repeats, with nothing in it that moves a terminal's cursor.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_named_as_people_name_servers() {
        for (typed, shown) in [
            ("relay.example.com", "relay.example.com:4433"),
            ("Relay.Example.com:443", "relay.example.com:443"),
            ("https://relay.example.com", "relay.example.com:443"),
            ("https://relay.example.com:4433/", "relay.example.com:4433"),
            ("localhost:1", "localhost:1"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("::1", "[::1]:4433"),
            ("[::1]:4", "[::1]:4"),
            ("[::1]", "[::1]:4433"),
            ("https://relay.example.com/tunnel?a=b", "https://relay.example.com:443/tunnel?a=b"),
            ("wss://relay.example.com", "wss://relay.example.com:443/"),
            ("ws://[::1]/t/", "ws://[::1]:80/t/"),
        ] {
            let address: RelayAddress = typed.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{typed}");
            assert_eq!(shown.parse(), Ok(address), "{shown}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for typed in [
            "",
            ":4433",
            "relay:0",
            "relay:65536",
            "relay:http",
            "relay:+80",
            "relay:1:2",
            "http://relay.example.com",
            "https://",
            "https://relay.example.com/a path",
            "https://relay.example.com/#there",
            "relay.example.com/path",
            "https://relay.example.com/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "alice@relay.example.com",
            "../../etc/passwd",
            "relay example",
            "relay\0",
            "[::1",
            "[relay]:1",
            "[::1]4",
        ] {
            let error = typed.parse::<RelayAddress>().unwrap_err().to_string();
            assert!(error.contains("relay.example.com:4433"), "{typed}: {error}");
        }
    }

    #[test]
    fn relays_behind_one_ingress_keep_their_files_apart() {
        let stem = |typed: &str| typed.parse::<RelayAddress>().unwrap().file_stem();
        assert_eq!(stem("https://ingress"), "ingress_443");
        assert_eq!(stem("https://ingress/a/B"), "ingress_443==2fa=2f=42");
        assert_eq!(stem("wss://ingress/a/B"), stem("https://ingress/a/B"));
        assert_ne!(stem("https://ingress/../x"), stem("https://ingress/x"));
        assert!(!stem("https://ingress/../../etc").contains('/'));
        assert_eq!(stem("[::1]:1"), "--1_1");
    }

    #[test]
    fn an_error_cannot_move_the_cursor() {
        let error = "\x1b[2J".parse::<RelayAddress>().unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}
