//! A whole culvert in one process: a relay on ports of the system's choice with a throwaway authority, and as many
//! developers as wanted, over real QUIC and real mutual TLS on loopback. For tests and for the demo. Every wait has an end.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use culvert_certs::{Authority, JoinToken};
use culvert_client::dial::{Dialler, Line, Network, Rungs};
use culvert_client::login::login_through;
use culvert_client::profile::Profiles;
use culvert_client::screen::Screen;
use culvert_client::session::{Claim, Options, Session};
use culvert_client::{App, RelayAddress};
use culvert_protocol::intercept::{Action, Condition, Intercept, Matcher, Mode, OnUnreachable};
use culvert_relay::store::{NewToken, Store};
use culvert_relay::{Addresses, Config, Drained, Relay};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A relay that runs until it is stopped or dropped, and what its developers keep.
#[derive(Debug)]
pub struct World {
    directory: TempDir,
    config: Config,
    addresses: Addresses,
    running: JoinSet<Drained>,
    stop: CancellationToken,
}

/// Somebody who has logged in.
#[derive(Clone, Debug)]
pub struct Developer {
    profiles: Profiles,
    relay: RelayAddress,
}

impl World {
    /// One service, `orders`, in front of `upstream` (as relay.yaml writes it).
    pub async fn before(upstream: &str) -> anyhow::Result<Self> {
        Self::with(&format!(
            "services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{upstream}\"}}\n"
        ))
        .await
    }

    /// The same for a relay that says to be one of several.
    pub async fn replicated(upstream: &str, replicas: u32) -> anyhow::Result<Self> {
        let service =
            format!("services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{upstream}\"}}\n");
        Self::of(&service, &format!(", replicas: {replicas}")).await
    }

    /// With these further sections of relay.yaml, the services among them.
    pub async fn with(sections: &str) -> anyhow::Result<Self> {
        Self::of(sections, "").await
    }

    async fn of(sections: &str, tunnel: &str) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("culvert-")?;
        let text = format!(
            "data: data\ntunnel: {{listen: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\", names: [\"127.0.0.1\", relay.test]{tunnel}}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             {sections}"
        );
        let config = Config::parse(&text, &directory.path().join("relay.yaml"))?;
        let relay = Relay::bind(config.clone()).await?;
        let addresses = relay.addresses().clone();
        let mut world =
            Self { directory, config, addresses, running: JoinSet::new(), stop: CancellationToken::new() };
        world.hold_ports();
        world.run(relay);
        Ok(world)
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where callers of the first service go.
    pub fn door(&self) -> anyhow::Result<SocketAddr> {
        let (_, address) = self.addresses.services.first().context("a world without services")?;
        Ok(*address)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A join token, made as `culvert-relay token create` makes it: beside the running relay.
    pub async fn token(&self, name: &str, ttl: Duration, uses: u32) -> anyhow::Result<JoinToken> {
        let now = SystemTime::now();
        let authority = Authority::open_or_create(&self.config.data, now)?;
        let store = Store::open(&self.config.data)?;
        let wanted = NewToken {
            name: name.parse()?,
            expires: now + ttl,
            uses,
            relay: self.addresses.tunnel.to_string(),
        };
        Ok(store.mint(authority.fingerprint(), wanted).await?)
    }

    /// Makes a token for somebody, and logs them in with it.
    pub async fn developer(&self, name: &str) -> anyhow::Result<Developer> {
        self.developer_dialling(name, self.addresses.tunnel).await
    }

    /// The same for somebody who knows the relay by another address, with something in between.
    pub async fn developer_dialling(&self, name: &str, relay: SocketAddr) -> anyhow::Result<Developer> {
        self.developer_through(name, &relay.to_string(), Network::default()).await
    }

    /// The same for somebody who knows the relay by an address as it is typed (it is also `relay.test`), and has proxies.
    pub async fn developer_through(
        &self,
        name: &str,
        relay: &str,
        network: Network,
    ) -> anyhow::Result<Developer> {
        let token = self.token(name, PATIENCE, 1).await?;
        let relay: RelayAddress = relay.parse()?;
        let logging_in = timeout(PATIENCE, login_through(&network, &relay, &token)).await;
        let profile = logging_in.context("logging in: timed out")??;
        let profiles = Profiles::at(self.directory.path().join(name)).through(network);
        profiles.save(&profile)?;
        Ok(Developer { profiles, relay })
    }

    /// Stops the relay in order. The developers' sessions go on looking for it.
    pub async fn stop_relay(&mut self) -> anyhow::Result<Drained> {
        self.stop.cancel();
        let ended = timeout(self.config.drain.grace + PATIENCE, self.running.join_next()).await;
        ended
            .context("stopping the relay: timed out")?
            .context("there is no relay")?
            .context("the relay's task")
    }

    /// Starts it again, on the same ports and data.
    pub async fn start_relay(&mut self) -> anyhow::Result<()> {
        if !self.running.is_empty() {
            bail!("the relay is running");
        }
        let relay = Relay::bind(self.config.clone()).await?;
        self.stop = CancellationToken::new();
        self.run(relay);
        Ok(())
    }

    fn run(&mut self, relay: Relay) {
        self.running.spawn(relay.run(self.stop.clone()));
    }

    /// The next start binds what this one was given.
    fn hold_ports(&mut self) {
        self.config.tunnel.listen = self.addresses.tunnel;
        self.config.tunnel.websocket = self.addresses.websocket;
        self.config.admin.listen = self.addresses.admin;
        for (service, (_, address)) in self.config.services.iter_mut().zip(&self.addresses.services) {
            service.listen = *address;
        }
    }
}

impl Developer {
    /// The same login, on a machine with other surroundings.
    pub fn through(self, network: Network) -> Self {
        Self { profiles: self.profiles.through(network), ..self }
    }

    /// The same login for another address of the relay.
    pub fn knowing(self, relay: RelayAddress) -> anyhow::Result<Self> {
        let mut profile = self.profiles.load(&self.relay)?;
        profile.relay = relay.clone();
        self.profiles.save(&profile)?;
        Ok(Self { relay, ..self })
    }

    /// A bare tunnel, on which nothing has been said yet: for a test that says it all itself.
    pub async fn dial(&self, rungs: Rungs) -> anyhow::Result<Line> {
        let dialler = Dialler::new(&self.profiles.load(&self.relay)?, rungs)?;
        Ok(timeout(PATIENCE, dialler.dial()).await.context("dialling: timed out")??)
    }

    /// The same person, who now knows the relay by another address.
    pub fn dialling(&self, relay: SocketAddr) -> anyhow::Result<Self> {
        let mut profile = self.profiles.load(&self.relay)?;
        profile.relay = relay.to_string().parse()?;
        self.profiles.save(&profile)?;
        Ok(Self { profiles: self.profiles.clone(), relay: profile.relay })
    }

    /// Claims the first service's requests that match (`x-user=alice`), and waits until the claim is in force.
    pub async fn intercept(&self, matches: &str, app: &str, rungs: Rungs) -> anyhow::Result<Session> {
        self.intercept_showing(matches, app, rungs, Screen::silent()).await
    }

    pub async fn intercept_showing(
        &self,
        matches: &str,
        app: &str,
        rungs: Rungs,
        screen: Screen,
    ) -> anyhow::Result<Session> {
        let mut session = self.claim(matches, app, rungs, screen)?;
        in_force(&mut session).await?;
        Ok(session)
    }

    /// The same with what callers get while the developer cannot be reached, as `--on-unreachable` takes it.
    pub async fn intercept_or(
        &self,
        policy: &str,
        matches: &str,
        app: &str,
        rungs: Rungs,
    ) -> anyhow::Result<Session> {
        let intercept = Intercept { on_unreachable: policy.parse()?, ..intercept(matches)? };
        let mut session = self.claim_this(intercept, app, rungs, Screen::silent())?;
        in_force(&mut session).await?;
        Ok(session)
    }

    /// The same, without waiting.
    pub fn claim(&self, matches: &str, app: &str, rungs: Rungs, screen: Screen) -> anyhow::Result<Session> {
        self.claim_this(intercept(matches)?, app, rungs, screen)
    }

    /// Any claim, without waiting.
    pub fn claim_this(
        &self,
        intercept: Intercept,
        app: &str,
        rungs: Rungs,
        screen: Screen,
    ) -> anyhow::Result<Session> {
        let options = Options {
            profile: self.profiles.load(&self.relay)?,
            rungs,
            claims: vec![Claim { intercept, app: app.parse::<App>()? }],
            screen,
            grace: PATIENCE,
        };
        Ok(Session::start(options)?)
    }
}

/// The claim of `orders`' requests that match, as `culvert intercept` makes it.
pub fn intercept(matches: &str) -> anyhow::Result<Intercept> {
    Ok(Intercept {
        name: format!("orders:{matches}").parse()?,
        service: "orders".parse()?,
        matcher: Matcher::new([matches.parse::<Condition>()?])?,
        mode: Mode::Steal,
        on_unreachable: OnUnreachable::Upstream,
        action: Action::Tunnel,
        ttl: None,
    })
}

/// Waits until a session's claims are in force.
pub async fn in_force(session: &mut Session) -> anyhow::Result<()> {
    let ready =
        timeout(PATIENCE, session.ready()).await.context("waiting for a claim to be in force: timed out")?;
    match ready {
        Some(_) => Ok(()),
        None => Err(ended(session).await.err().unwrap_or_else(|| anyhow!("the session was stopped"))),
    }
}

/// Waits until a session is over.
pub async fn ended(session: &mut Session) -> anyhow::Result<()> {
    Ok(timeout(PATIENCE, session.ended()).await.context("waiting for a session's end: timed out")??)
}

/// Gives a session's claims back and waits until it is over.
pub async fn leave(mut session: Session) -> anyhow::Result<()> {
    session.stop();
    ended(&mut session).await
}
