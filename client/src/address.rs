//! Where a relay is dialled. Kept as text: a name is resolved afresh at each dial, never here.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// A relay's tunnel port in development, and when none is given.
pub const DEFAULT_PORT: u16 = 4433;

/// `HOST[:PORT]` or `https://HOST[:PORT]`; the port is 4433, or 443 after `https://`, when it is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// A DNS name in lower case or an IP address without brackets: nothing that a file name gives a meaning to.
    host: String,
    port: u16,
}

impl RelayAddress {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
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
        let (rest, default) = match text.strip_prefix("https://") {
            Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), 443),
            None => (text, DEFAULT_PORT),
        };
        let (host, port) = host_and_port(rest).ok_or_else(wrong)?;
        let host = host.to_ascii_lowercase();
        match ServerName::try_from(host.as_str()).map_err(|_| wrong())? {
            ServerName::DnsName(_) | ServerName::IpAddress(_) => {}
            _ => return Err(wrong()),
        }
        Ok(Self { host, port: port.unwrap_or(default) })
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host_and_port(f, &self.host, self.port)
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
            "https://relay.example.com/path",
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
    fn an_error_cannot_move_the_cursor() {
        let error = "\x1b[2J".parse::<RelayAddress>().unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}
