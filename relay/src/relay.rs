//! The relay as a whole: what is bound, what is started in which order, and stopped in which. Serves nothing itself.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_certs::{
    Authority, AuthorityError, DeveloperName, Fingerprint, JoinToken, LeafError, RelayKeys, RelayKeysError,
    tls::TlsError,
};
use culvert_protocol::hello::RelayInformation;
use culvert_protocol::intercept::ServiceName;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{self, Readiness};
use crate::config::{Config, ConfigError};
use crate::front;
use crate::metrics::Metrics;
use crate::operator::Desk;
use crate::policy::Terms;
use crate::service::{Secured, Service};
use crate::store::{MintError, NewToken, Store, StoreError};
use crate::tunnels::registry::{Registry, Stamps};
use crate::tunnels::{self, BindError, Bound, Configs, Port};

/// A relay whose every port is bound and on which nothing is served yet.
#[derive(Debug)]
pub struct Relay {
    addresses: Addresses,
    grace: Duration,
    tunnels: Bound,
    port: Arc<Port>,
    doors: Vec<(TcpListener, Arc<Service>)>,
    admin: TcpListener,
    /// None where there is no place for it.
    operator: Option<Desk>,
    metrics: Arc<Metrics>,
}

/// Where the relay is listening, with the ports that the system chose where the configuration says 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// TCP and UDP.
    pub tunnel: SocketAddr,
    /// Where ingresses bring WebSockets, where there is a place for them alone.
    pub websocket: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// In the configuration's order.
    pub services: Vec<(ServiceName, SocketAddr)>,
    /// Those of the services whose door speaks TLS.
    pub secure: Vec<ServiceName>,
}

/// Makes join tokens for one relay.
#[derive(Clone, Debug)]
pub struct Enrolment {
    store: Store,
    authority: Fingerprint,
    /// Where clients may dial; may be empty.
    relay: String,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every exchange came to its own end.
    Whole,
    /// The grace period was over first, and what was still under way was cut.
    Cut,
    /// A part of the relay failed, and the rest was stopped in order.
    Failed,
}

/// Why a relay does not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("listening for {what} on {address}: {cause}{}", advice(cause))]
    Listen { what: String, address: SocketAddr, cause: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Keys(#[from] RelayKeysError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("opening what the relay needs: the task was stopped")]
    Stopped,
}

/// What the data directory holds.
#[derive(Debug)]
struct Data {
    authority: Authority,
    keys: RelayKeys,
    store: Store,
    tls: Configs,
}

impl Relay {
    /// Whether all files that the configuration names are there and fit. Blocks.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Secured::read(config).map(drop)
    }

    /// Reads those files, opens the data directory and binds every port: what is wrong shows before anything is served.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let secured = secured(&config).await?;
        let Data { authority, keys, store, tls } = Data::open(&config).await?;
        let metrics = Arc::new(Metrics::new());

        let admin = listen("the admin port", config.admin.listen).await?;
        let mut listeners = Vec::with_capacity(config.services.len());
        for service in &config.services {
            let listener = listen(&format!("service `{}`", service.name), service.listen).await?;
            listeners.push((listener.local_addr().map_err(unnamed(service.listen))?, listener));
        }
        let websocket = match config.tunnel.websocket {
            Some(address) => Some(listen("tunnels (WebSocket)", address).await?),
            None => None,
        };
        let of_ingresses = websocket.as_ref().map(TcpListener::local_addr).transpose();
        let of_ingresses = of_ingresses.map_err(unnamed(config.tunnel.listen))?;
        let tunnels = Bound::bind(config.tunnel.listen, websocket, Arc::new(tls), &keys, &config.data)
            .await
            .map_err(|error| StartError::tunnels(config.tunnel.listen, error))?;

        let offered = config.services.iter().zip(&listeners).map(|(service, (address, _))| {
            (service.name.clone(), vec![address.to_string()], Terms { all_traffic: service.all_traffic })
        });
        // A path that is too long for a socket, or a file system without them, keeps nobody from being served.
        let operator = Desk::open(&config.data)
            .inspect_err(|cause| warn!("listening for `culvert-relay routes` and `kill`: {cause}"))
            .ok();
        let stamps = Stamps::new(&authority.derive(Stamps::PURPOSE), keys.id.to_string());
        let registry =
            Registry::new(offered, config.tunnel.claims, metrics.tunnels.intercepts.clone(), stamps);
        let addresses = Addresses {
            tunnel: tunnels.address,
            websocket: of_ingresses,
            admin: admin.local_addr().map_err(unnamed(config.admin.listen))?,
            services: config
                .services
                .iter()
                .zip(&listeners)
                .map(|(service, (address, _))| (service.name.clone(), *address))
                .collect(),
            secure: config
                .services
                .iter()
                .filter(|service| service.tls.is_some())
                .map(|service| service.name.clone())
                .collect(),
        };
        let doors = config
            .services
            .iter()
            .zip(listeners)
            .zip(secured)
            .map(|((service, (_, listener)), secured)| {
                let counted = metrics.service(service.name.as_str());
                let table = registry.table(&service.name);
                (listener, Arc::new(Service::new(service, secured, table, counted)))
            })
            .collect();
        let port = Arc::new(Port {
            authority,
            relay: RelayInformation { id: keys.id.to_string(), names: config.tunnel.names },
            store,
            registry,
            metrics: metrics.tunnels.clone(),
            strangers: tunnels::Strangers::default(),
            replicas: config.tunnel.replicas,
            grace: config.drain.grace,
            drain: CancellationToken::new(),
            close: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        Ok(Self { addresses, grace: config.drain.grace, tunnels, port, doors, admin, operator, metrics })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What makes join tokens for this relay, also while it runs.
    pub fn enrolment(&self) -> Enrolment {
        Enrolment {
            store: self.port.store.clone(),
            authority: self.port.authority.fingerprint(),
            relay: self.addresses.tunnel.to_string(),
        }
    }

    #[cfg(test)]
    pub(crate) fn port(&self) -> Arc<Port> {
        Arc::clone(&self.port)
    }

    /// Serves until `stop`, then stops in order: whoever calls is told first not to, and what is under way is the last to
    /// go. Returns when nothing of the relay runs any more.
    pub async fn run(self, stop: CancellationToken) -> Drained {
        let Self { addresses: _, grace, tunnels, port, doors: services, admin, operator, metrics } = self;
        let (refuse, cut, silence) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (mut tunnel_port, mut doors, mut admin_port) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let readiness = Readiness::default();

        admin_port.spawn(admin::serve(admin, readiness.clone(), metrics, silence.clone()));
        if let Some(operator) = operator {
            admin_port.spawn(operator.serve(Arc::clone(&port.registry), silence.clone()));
        }
        tunnel_port.spawn(tunnels::serve(tunnels, Arc::clone(&port)));
        for (listener, service) in services {
            doors.spawn(front::serve(listener, service, refuse.clone(), cut.clone()));
        }
        readiness.ready();
        let failed = tokio::select! {
            () = stop.cancelled() => false,
            // None of them ends by itself: it has panicked, and half a relay is worse than none.
            Some(ended) = tunnel_port.join_next() => broke("the tunnel port", ended),
            Some(ended) = doors.join_next() => broke("a front door", ended),
            Some(ended) = admin_port.join_next() => broke("the admin port", ended),
        };

        // Whoever balances load is told first, so that callers stop coming while they are still being served.
        readiness.draining();
        info!(grace = ?grace, "draining");
        // No new exchanges. Tunnels stay up: what is under way runs through them.
        refuse.cancel();
        port.drain.cancel();
        let whole = timeout(grace, all(&mut doors)).await.is_ok();
        if !whole {
            warn!("the grace period is over: what is still under way is cut");
            cut.cancel();
            all(&mut doors).await;
        }
        // Nobody needs the tunnels any more.
        port.close.cancel();
        all(&mut tunnel_port).await;
        // The admin port is the last: it tells how far the rest is.
        silence.cancel();
        all(&mut admin_port).await;
        match (failed, whole) {
            (true, _) => Drained::Failed,
            (false, true) => Drained::Whole,
            (false, false) => Drained::Cut,
        }
    }
}

impl Enrolment {
    /// Of a relay that runs in another process, or that does not run yet. Blocks.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let authority = Authority::open_or_create(&config.data, SystemTime::now())?.fingerprint();
        Ok(Self { store: Store::open(&config.data)?, authority, relay: config.tunnel.dialled_at() })
    }

    pub async fn mint(&self, name: DeveloperName, ttl: Duration, uses: u32) -> Result<JoinToken, MintError> {
        let expires = SystemTime::now() + ttl;
        self.store.mint(self.authority, NewToken { name, expires, uses, relay: self.relay.clone() }).await
    }
}

impl Data {
    async fn open(config: &Config) -> Result<Self, StartError> {
        let (dir, names) = (config.data.clone(), config.tunnel.names.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let authority = Authority::open_or_create(&dir, now)?;
            let keys = RelayKeys::open_or_create(&dir)?;
            let leaf = authority.server_leaf(&names, now)?;
            let tls = Configs::new(&authority, &leaf)?;
            Ok(Self { store: Store::open(&dir)?, authority, keys, tls })
        });
        opening.await.map_err(|_| StartError::Stopped)?
    }
}

async fn secured(config: &Config) -> Result<Vec<Secured>, StartError> {
    let config = config.clone();
    let reading = tokio::task::spawn_blocking(move || Secured::read(&config));
    Ok(reading.await.map_err(|_| StartError::Stopped)??)
}

async fn listen(what: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |cause| StartError::Listen { what: what.to_owned(), address, cause };
    TcpListener::bind(address).await.map_err(failed)
}

fn unnamed(address: SocketAddr) -> impl Fn(io::Error) -> StartError {
    move |cause| StartError::Listen { what: "its own address".to_owned(), address, cause }
}

impl StartError {
    fn tunnels(address: SocketAddr, error: BindError) -> Self {
        Self::Listen { what: format!("tunnels ({})", error.protocol), address, cause: error.cause }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => ": another process listens there: stop it, or choose another address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    }
}

/// Waits for every task of a set.
async fn all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(failure) = ended {
            error!("a part of the relay failed: {failure}");
        }
    }
}

fn broke(what: &str, ended: Result<(), JoinError>) -> bool {
    let how = ended.map_or_else(|failure| failure.to_string(), |()| "it ended by itself".to_owned());
    error!("{what} failed: {how}: stopping");
    true
}

impl fmt::Display for Addresses {
    /// One line for each address, as a person reads them at the start.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, address) in &self.services {
            let scheme = if self.secure.contains(name) { "https" } else { "http" };
            writeln!(f, "{name}: listening for callers on {address} ({scheme})")?;
        }
        writeln!(f, "tunnels: listening for developers on {} (udp, tcp)", self.tunnel)?;
        if let Some(address) = self.websocket {
            writeln!(f, "tunnels: listening for ingresses on {address} (websocket)")?;
        }
        write!(f, "admin: listening on {} (http)", self.admin)
    }
}
