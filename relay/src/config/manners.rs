//! How a service's front door behaves toward callers and backends, as a proxy. Holds the settings, their defaults and how
//! they are written; the door does what they say.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::file::{ServiceKeys, Text};
use super::resolve::{at, shown};
use super::{Problem, Upstream};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manners {
    /// Nothing is said of the caller or of the relay, and what others say of the caller is left as it came. So until a
    /// configuration says whom to believe, or what to say.
    pub transparent: bool,
    /// Whose word counts on who the caller is: what they say in `X-Forwarded-*`, `Forwarded` and `X-Real-IP` is kept and
    /// added to; what anybody else says is replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// In which fields the relay says who the caller is.
    pub forwarded: Forwarded,
    pub host: Host,
    /// The relay says `Via` (RFC 9110 §7.6.3).
    pub via: bool,
    pub route_field: RouteField,
    /// Who has to begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// Reachable from outside: nobody there has a right to steer.
    pub public: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Standard,
    Both,
    Off,
}

/// Which `Host` a backend is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// The caller's.
    #[default]
    Preserve,
    /// The upstream's own address.
    Upstream,
}

/// Which responses tell in `Culvert-Route` where the request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteField {
    /// Those to requests that somebody claims.
    #[default]
    Matched,
    Always,
    Never,
}

impl Manners {
    /// Whether the relay tells that a message has passed it.
    pub(crate) fn says_via(&self) -> bool {
        self.via && !self.transparent
    }
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            transparent: true,
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::default(),
            host: Host::default(),
            via: true,
            route_field: RouteField::default(),
            proxy_protocol: Vec::new(),
            public: false,
        }
    }
}

const FORWARDED: &[(&str, Forwarded)] = &[
    ("x-forwarded", Forwarded::XForwarded),
    ("standard", Forwarded::Standard),
    ("both", Forwarded::Both),
    ("off", Forwarded::Off),
];

const HOST: &[(&str, Host)] = &[("preserve", Host::Preserve), ("upstream", Host::Upstream)];

const ROUTE_FIELD: &[(&str, RouteField)] =
    &[("matched", RouteField::Matched), ("always", RouteField::Always), ("never", RouteField::Never)];

pub(super) fn manners(typed: &ServiceKeys, upstream: &Upstream) -> Result<Manners, Problem> {
    let ServiceKeys { trusted_proxies, forwarded, host, via, route_field, proxy_protocol, public, .. } =
        typed;
    let default = Manners::default();
    if let (Some(host), Upstream::Unix { .. }) = (host, upstream)
        && host.value == "upstream"
    {
        return Err(at(
            host,
            format!("`host: upstream` needs an upstream with a host, and {upstream} has none"),
        ));
    }
    Ok(Manners {
        transparent: trusted_proxies.is_none()
            && forwarded.is_none()
            && via.is_none()
            && *public != Some(true),
        trusted_proxies: networks(trusted_proxies.as_deref())?,
        forwarded: word(forwarded.as_ref(), FORWARDED)?.unwrap_or(default.forwarded),
        host: word(host.as_ref(), HOST)?.unwrap_or(default.host),
        via: via.unwrap_or(default.via),
        route_field: word(route_field.as_ref(), ROUTE_FIELD)?.unwrap_or(default.route_field),
        proxy_protocol: networks(proxy_protocol.as_deref())?,
        public: public.unwrap_or(default.public),
    })
}

/// One of the words that a key knows.
fn word<T: Copy>(typed: Option<&Text>, known: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some(typed) = typed else { return Ok(None) };
    match known.iter().find(|(word, _)| *word == typed.value) {
        Some((_, meant)) => Ok(Some(*meant)),
        None => {
            let words = known.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            Err(at(typed, format!("`{}` is not known here: write one of {words}", shown(&typed.value))))
        }
    }
}

fn networks(typed: Option<&[Text]>) -> Result<Vec<IpNet>, Problem> {
    typed.unwrap_or_default().iter().map(network).collect()
}

/// `10.0.0.0/8`, or one address alone.
fn network(typed: &Text) -> Result<IpNet, Problem> {
    let parsed = match typed.value.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => typed.value.parse::<IpNet>(),
    };
    let network = parsed.map_err(|_| {
        let problem =
            format!("`{}` is not a network: write 10.0.0.0/8, fd00::/8 or one address", shown(&typed.value));
        at(typed, problem)
    })?;
    // Whoever writes 10.1.2.3/8 means either one machine or sixteen million.
    if network.addr() != network.network() {
        let problem = format!(
            "`{network}` is an address in a network: write {} or {}",
            network.trunc(),
            network.addr()
        );
        return Err(at(typed, problem));
    }
    Ok(canonical(network))
}

/// Callers over IPv4 are told apart by their IPv4 addresses, on whatever socket they came.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    if let IpNet::V6(mapped) = network
        && let Some(address) = mapped.addr().to_ipv4_mapped()
        && let Some(prefix) = mapped.prefix_len().checked_sub(MAPPED)
        && let Ok(network) = Ipv4Net::new(address, prefix)
    {
        return network.into();
    }
    network
}
