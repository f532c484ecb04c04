//! Tunnels that hold claims, and developers who have them: many claims and nobody who sends them a request. What is said on
//! them is only what a client says that holds claims; nothing is served.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use culvert_certs::Authority;
use culvert_client::dial::{Dialler, Line, Network, Rungs};
use culvert_client::login::login_through;
use culvert_client::profile::Profile;
use culvert_protocol::hello::{FromClient, FromRelay, Hello, InstanceId, Messages, VERSIONS, write_message};
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::{RecvHalf, SendHalf};
use culvert_relay::store::{NewToken, Store};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::stack::Stack;

/// What a relay takes from one developer.
pub(super) const OF_ONE: usize = 200;
/// Changes of one developer's in a second that a relay takes for as long as it likes.
pub(super) const CHANGES: usize = 20;

/// Longer than a handshake or an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes tokens beside a running relay, as `culvert-relay token create` does, and logs in with them: in this process, because
/// there are hundreds.
pub(super) async fn developer(stack: &Stack, name: &str) -> anyhow::Result<Profile> {
    let now = SystemTime::now();
    let data = stack.directory().join("data");
    let fingerprint = Authority::open_or_create(Path::new(&data), now)?.fingerprint();
    let relay = stack.tunnel.to_string();
    let wanted = NewToken { name: name.parse()?, expires: now + PATIENCE, uses: 1, relay: relay.clone() };
    let token = Store::open(&data)?.mint(fingerprint, wanted).await?;
    let (network, relay) = (Network::default(), relay.parse()?);
    let logging_in = timeout(PATIENCE, login_through(&network, &relay, &token));
    logging_in.await.context("logging in: timed out")?.with_context(|| format!("logging {name} in"))
}

/// One tunnel, over TLS, that has been welcomed.
pub(super) struct Claimant {
    /// Closed when this is dropped.
    _line: Line,
    messages: Messages<RecvHalf>,
    send: SendHalf,
    /// The number of the last claim.
    last: u64,
}

impl Claimant {
    pub(super) async fn connect(profile: &Profile) -> anyhow::Result<Self> {
        let line = Dialler::new(profile, Rungs::Tls)?.dial().await?;
        let (recv, send) = line.tunnel.open().await?.split();
        let mut claimant = Self { _line: line, messages: Messages::new(recv), send, last: 0 };
        let hello = FromClient::Hello(Hello {
            versions: VERSIONS.to_vec(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: "loadtest".to_owned(),
            user: None,
            process: std::process::id(),
            instance: InstanceId::new(rand::random()),
            tunnel: None,
            began: None,
        });
        claimant.say(&hello).await?;
        match timeout(PATIENCE, claimant.messages.next()).await.context("waiting for a welcome")?? {
            Some(FromRelay::Welcome(_)) => Ok(claimant),
            other => bail!("instead of a welcome: {other:?}"),
        }
    }

    /// Announces what it is told to and keeps it, until this is dropped. Says what came in force.
    pub(super) async fn hold(
        mut self,
        mut told: mpsc::Receiver<Vec<Intercept>>,
        in_force: mpsc::Sender<()>,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                Some(intercepts) = told.recv() => {
                    for intercept in intercepts {
                        self.claim(intercept).await?;
                    }
                }
                message = self.messages.next() => if self.is_acceptance(message?).await? {
                    in_force.send(()).await?;
                }
            }
        }
    }

    /// Announces a claim and takes it back, as often as a relay lets one developer, until this is dropped. Counts what came in force.
    pub(super) async fn churn(
        mut self,
        start: Instant,
        accepted: Arc<AtomicU64>,
        mut next: impl FnMut(u64) -> anyhow::Result<Intercept>,
    ) -> anyhow::Result<()> {
        let mut tick = interval_at(start, Duration::from_secs(1) / u32::try_from(CHANGES)?);
        // What is late is made up for: so many in a second are promised.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut there = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    match there {
                        false => self.claim(next(self.last)?).await?,
                        true => self.say(&FromClient::Withdraw { claim: self.last }).await?,
                    }
                    there = !there;
                }
                message = self.messages.next() => if self.is_acceptance(message?).await? {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    async fn claim(&mut self, intercept: Intercept) -> anyhow::Result<()> {
        self.last += 1;
        let intercept = Box::new(intercept);
        self.say(&FromClient::Announce { claim: self.last, intercept, stamp: None }).await
    }

    async fn say(&mut self, message: &FromClient) -> anyhow::Result<()> {
        let saying = timeout(PATIENCE, write_message(&mut self.send, message)).await;
        Ok(saying.context("speaking to the relay: timed out")??)
    }

    /// Whether a claim has come in force. A ping is answered, and no claim may be denied.
    async fn is_acceptance(&mut self, message: Option<FromRelay>) -> anyhow::Result<bool> {
        match message.context("the relay ended a tunnel")? {
            FromRelay::Ping { n } => self.say(&FromClient::Pong { n }).await?,
            FromRelay::Denied { message, .. } => bail!("a claim is denied: {message}"),
            FromRelay::Accepted { .. } => return Ok(true),
            _ => {}
        }
        Ok(false)
    }
}
