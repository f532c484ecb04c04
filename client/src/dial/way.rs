//! What can be tried on each rung: which address, through which proxy, at which WebSocket. Decided before anything is dialled,
//! from the relay's address, the name's addresses and the proxies; connects nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_protocol::tunnel::Transport;

use super::proxy::{Proxies, Proxy};
use super::{Unresolved, Why};
use crate::address::{RelayAddress, Web, WebAt};

/// One thing to try.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Quic(SocketAddr),
    Tls(Reach),
    WebSocket(Reach, WebAt),
}

/// How TCP gets there.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    Direct(SocketAddr),
    /// The proxy resolves the relay's name. The port is the relay's.
    Through(Arc<Proxy>, u16),
}

/// Every way of a rung, in the order in which they are begun; or why there is none.
pub(super) fn of(
    rung: Transport,
    relay: &RelayAddress,
    found: &Result<Vec<IpAddr>, Unresolved>,
    proxies: &Proxies,
) -> Result<Vec<Way>, Why> {
    let reach = |port: u16| -> Result<Vec<Reach>, Why> {
        match proxies.toward(relay.host(), port) {
            Err(error) => Err(Why::ProxySetting(error)),
            Ok(Some(proxy)) => Ok(vec![Reach::Through(proxy, port)]),
            Ok(None) => Ok(addresses(found, port)?.map(Reach::Direct).collect()),
        }
    };
    let web = relay.web();
    match rung {
        Transport::Quic | Transport::Tls if relay.is_only_web() => Err(Why::OnlyWeb),
        Transport::Quic => Ok(addresses(found, relay.port())?.map(Way::Quic).collect()),
        Transport::Tls => Ok(reach(relay.port())?.into_iter().map(Way::Tls).collect()),
        Transport::WebSocket => {
            let mut ways = Vec::new();
            let mut unreachable = None;
            for at in web {
                match reach(at.port) {
                    Ok(reached) => {
                        ways.extend(reached.into_iter().map(|way| Way::WebSocket(way, at.clone())))
                    }
                    Err(why) => unreachable = Some(why),
                }
            }
            unreachable.filter(|_| ways.is_empty()).map_or(Ok(ways), Err)
        }
    }
}

fn addresses(
    found: &Result<Vec<IpAddr>, Unresolved>,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr>, Why> {
    let found = found.as_ref().map_err(|unresolved| Why::Unresolved(unresolved.clone()))?;
    Ok(found.iter().map(move |address| SocketAddr::new(*address, port)))
}

/// A name's addresses in the resolver's order, but the families in turns (RFC 8305 §4): where one of them leads nowhere, the
/// other is begun as the second and not as the last.
pub(super) fn in_turns(found: impl IntoIterator<Item = IpAddr>, most: usize) -> Vec<IpAddr> {
    let mut families: [Vec<IpAddr>; 2] = Default::default();
    let mut first = None;
    for address in found {
        let first = *first.get_or_insert_with(|| address.is_ipv6());
        let [same, other] = &mut families;
        let family = if address.is_ipv6() == first { same } else { other };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [mut same, mut other] = families.map(Vec::into_iter);
    let mut turns = Vec::new();
    while turns.len() < most {
        let before = turns.len();
        turns.extend(same.next());
        turns.extend(other.next());
        if turns.len() == before {
            break;
        }
    }
    turns.truncate(most);
    turns
}

impl Way {
    pub(crate) fn rung(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Tls(_) => Transport::Tls,
            Self::WebSocket(..) => Transport::WebSocket,
        }
    }

    /// Where the peer is, as far as we dial it ourselves.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Quic(address)
            | Self::Tls(Reach::Direct(address))
            | Self::WebSocket(Reach::Direct(address), _) => Some(*address),
            Self::Tls(Reach::Through(..)) | Self::WebSocket(Reach::Through(..), _) => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quic(address) => write!(f, "{address}"),
            Self::Tls(reach) => write!(f, "{reach}"),
            Self::WebSocket(reach, at) => {
                let scheme = match at.web {
                    Web::Secure => "wss",
                    Web::Clear => "ws",
                };
                write!(f, "{scheme}://{reach}")
            }
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "{address}"),
            Self::Through(proxy, port) => write!(f, "port {port} through {proxy}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = ["::1", "::2", "::1", "::3", "10.0.0.1", "10.0.0.2"].map(ip);
        let turns = ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"].map(ip);
        assert_eq!(in_turns(found, 8), turns);
        assert_eq!(in_turns(found, 2), turns[..2]);
        assert_eq!(in_turns([ip("10.0.0.1")], 8), [ip("10.0.0.1")]);
        assert_eq!(in_turns([], 8), Vec::<IpAddr>::new());
    }

    #[test]
    fn each_rung_is_tried_where_the_address_says() {
        let found = Ok(vec!["10.0.0.1".parse().unwrap()]);
        let places = |relay: &str, rung| {
            let relay: RelayAddress = relay.parse().unwrap();
            of(rung, &relay, &found, &Proxies::default())
                .map(|ways| ways.iter().map(ToString::to_string).collect::<Vec<_>>())
                .map_err(|why| why.to_string())
        };
        assert_eq!(places("relay", Transport::Quic).unwrap(), ["10.0.0.1:4433"]);
        assert_eq!(places("relay", Transport::Tls).unwrap(), ["10.0.0.1:4433"]);
        assert_eq!(
            places("relay", Transport::WebSocket).unwrap(),
            ["wss://10.0.0.1:4433", "wss://10.0.0.1:443", "ws://10.0.0.1:4433"]
        );
        assert_eq!(places("https://relay/t", Transport::WebSocket).unwrap(), ["wss://10.0.0.1:443"]);
        assert_eq!(places("https://relay/t", Transport::Quic).unwrap(), ["10.0.0.1:443"]);
        assert_eq!(places("ws://relay:81/t", Transport::WebSocket).unwrap(), ["ws://10.0.0.1:81"]);
        assert!(places("ws://relay:81/t", Transport::Quic).unwrap_err().contains("WebSocket"));
    }
}
