//! How a service's front door behaves toward callers and backends, as a proxy. Holds the settings and their defaults.

use ipnet::IpNet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manners {
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

impl Default for Manners {
    fn default() -> Self {
        Self {
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
