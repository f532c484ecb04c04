//! A service: a front door, what stands behind it, and what it bears.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use culvert_protocol::message::in_any_spelling;
use culvert_protocol::origin::{Address, Origin};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::config::{self, Limits, Manners};
use crate::metrics::ServiceMetrics;
use crate::routes::Routes;
use crate::tunnels::claim::Claim;

mod secured;

pub(crate) use secured::Secured;

/// Callers of one service that wait for a developer at once, each with at most 64 KiB of its body. For who comes on top there is the
/// upstream.
const HELD: usize = 1_000;

pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    /// Who claims what; swapped whole by the registry.
    pub(crate) routes: Arc<ArcSwap<Routes<Arc<Claim>>>>,
    pub(crate) upstream: Origin,
    pub(crate) limits: Limits,
    pub(crate) manners: Manners,
    /// The door speaks TLS.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// Room for callers that wait for a developer.
    pub(crate) held: Semaphore,
}

impl Service {
    pub(crate) fn new(
        config: &config::Service,
        secured: Secured,
        routes: Arc<ArcSwap<Routes<Arc<Claim>>>>,
        metrics: Arc<ServiceMetrics>,
    ) -> Self {
        Self {
            name: config.name.as_str().into(),
            routes,
            upstream: Origin::new(address(&config.upstream), secured.upstream),
            limits: config.limits.clone(),
            manners: config.manners.clone(),
            tls: secured.door,
            metrics,
            held: Semaphore::new(HELD),
        }
    }
}

impl Service {
    /// Some claim matches on this name, or on what it becomes once `_` is read as `-`.
    pub(crate) fn steers(&self, name: &[u8]) -> bool {
        let routes = self.routes.load();
        in_any_spelling(name, |name| routes.steers(name))
    }
}

fn address(upstream: &config::Upstream) -> Address {
    match upstream.clone() {
        config::Upstream::Http { host, port }
        | config::Upstream::H2c { host, port }
        | config::Upstream::Https { host, port, .. } => Address::Tcp { host, port },
        config::Upstream::Unix { path } => Address::Unix { path },
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
