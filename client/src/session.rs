//! A session: dial -> hello -> announce -> serve -> why it ended -> again, or stop. `Life::run` is the whole story.
//!
//! Claims are announced again on every connection, and superseded by name, so that a session's own dead connection is
//! never in its way. What can heal by itself is tried again for ever; what cannot ends the session with its reason.
//! Holds no request: those are [`crate::serve`]'s.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_protocol::hello::{InstanceId, Welcome};
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::Transport;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::dial::{Dialler, Line, Missed, Rungs, SetupError, Why};
use crate::profile::Profile;
use crate::screen::Screen;
use crate::serve::Apps;

mod backoff;
mod connection;
mod control;
mod ended;
#[cfg(test)]
pub(crate) mod tests;

use backoff::Backoff;
use connection::Connection;
pub(crate) use control::Control;
pub(crate) use ended::Over;
pub use ended::SessionError;

/// A connection that lived so long was good: the next failure is a new one.
const GOOD: Duration = Duration::from_secs(10);

/// How long exchanges may go on once the developer has asked to stop, unless the caller says otherwise.
pub const GRACE: Duration = Duration::from_secs(10);

/// What a session is for.
#[derive(Debug)]
pub struct Options {
    pub profile: Profile,
    pub rungs: Rungs,
    pub claims: Vec<Claim>,
    pub screen: Screen,
    /// How long exchanges in flight may go on after [`Session::stop`].
    pub grace: Duration,
}

/// What is claimed, and where the requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub intercept: Intercept,
    pub app: App,
}

/// A session that runs until it is stopped, cannot go on, or is dropped; dropped, it ends at once.
#[derive(Debug)]
pub struct Session {
    state: watch::Receiver<Option<Arc<Ready>>>,
    stop: CancellationToken,
    cut: CancellationToken,
    life: JoinSet<Result<(), SessionError>>,
}

/// Every claim is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which replica this is.
    pub relay: String,
    /// Who the relay takes us for.
    pub identity: String,
    pub transport: Transport,
    /// Where each claim's service is listened for, in the order of the claims.
    pub listen: Vec<Vec<String>>,
}

impl Session {
    /// Starts dialling, on the runtime that this is called in.
    pub fn start(options: Options) -> Result<Self, SetupError> {
        Self::start_at_ports(options, Vec::new())
    }

    /// The same for claims whose services were named with their ports, in the order of the claims: where the relay
    /// listens for one of them elsewhere, the session ends. `None`, or no entry: any port will do.
    pub fn start_at_ports(options: Options, ports: Vec<Option<u16>>) -> Result<Self, SetupError> {
        let (say, state) = watch::channel(None);
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let life = Life {
            dialler: Dialler::new(&options.profile, options.rungs)?,
            not_after: options.profile.identity.not_after,
            apps: Arc::new(Apps::new((1..).zip(options.claims.iter().map(|claim| claim.app.clone())))?),
            claims: options.claims,
            ports,
            instance: InstanceId::new(rand::random()),
            screen: options.screen,
            grace: options.grace,
            state: say,
            complained: false,
            draining: JoinSet::new(),
            stop: stop.clone(),
            cut: cut.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Box::pin(life.run()));
        Ok(Self { state, stop, cut, life: tasks })
    }

    /// Waits until every claim is in force; `None` when the session has ended and [`Session::ended`] says why.
    pub async fn ready(&mut self) -> Option<Arc<Ready>> {
        let state = self.state.wait_for(Option::is_some).await.ok()?;
        state.clone()
    }

    /// What is in force right now: `None` while there is no tunnel.
    pub fn now(&self) -> Option<Arc<Ready>> {
        self.state.borrow().clone()
    }

    /// Gives the claims back at once, finishes what is under way, and ends.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends without finishing anything.
    pub fn cut(&self) {
        self.stop.cancel();
        self.cut.cancel();
    }

    /// Waits for the end. Dropping the future loses nothing.
    pub async fn ended(&mut self) -> Result<(), SessionError> {
        match self.life.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(SessionError::Broken),
            // Told before.
            None => Ok(()),
        }
    }
}

/// What a session needs from its start to its end.
struct Life {
    dialler: Dialler,
    not_after: SystemTime,
    /// A claim's number is its place, counted from 1: the same on every connection.
    claims: Vec<Claim>,
    /// Where their services are meant to be listened for.
    ports: Vec<Option<u16>>,
    apps: Arc<Apps>,
    instance: InstanceId,
    screen: Screen,
    grace: Duration,
    state: watch::Sender<Option<Arc<Ready>>>,
    /// That there is no tunnel has been said, and is not said again until there was one.
    complained: bool,
    /// Connections whose relay goes away, and that only finish what is under way.
    draining: JoinSet<()>,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Life {
    async fn run(mut self) -> Result<(), SessionError> {
        let mut backoff = Backoff::default();
        let ended = loop {
            let begun = Instant::now();
            let over = self.connect().await;
            let was_ready = self.state.send_replace(None).is_some();
            if was_ready && begun.elapsed() >= GOOD {
                backoff.reset();
            }
            match over {
                Over::Stopped => break Ok(()),
                Over::Never(error) => break Err(error),
                Over::Drained { .. } => {}
                Over::Again(why) => self.complain(&why, was_ready),
            }
            tokio::select! {
                () = sleep(backoff.next(rand::random())) => {}
                () = self.stop.cancelled() => break Ok(()),
            }
        };
        // Each of them is limited by its grace.
        while self.draining.join_next().await.is_some() {}
        ended
    }

    /// One connection from its dial to its end.
    async fn connect(&mut self) -> Over {
        if self.not_after <= SystemTime::now() {
            let relay = self.dialler.relay().clone();
            return Over::Never(SessionError::Expired { relay, not_after: self.not_after });
        }
        let stop = self.stop.clone();
        let dialled = tokio::select! {
            dialled = self.dialler.dial() => dialled,
            () = stop.cancelled() => return Over::Stopped,
        };
        let line = match dialled {
            Ok(line) => line,
            Err(error) => return Over::of_dial(error),
        };
        let greeted = tokio::select! {
            greeted = Control::greet(&line, self.instance) => greeted,
            () = stop.cancelled() => return Over::Stopped,
        };
        let (control, welcome) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => {
                let over = Over::of_greeting(error, &line, self.dialler.relay()).await;
                line.close(&over.as_reason()).await;
                return over;
            }
        };
        let how = how(&line);
        let mut connection = Connection::serve(line, control, &self.apps, &self.screen);
        let over = connection.converse(self, &welcome, &how).await;
        match &over {
            Over::Stopped => connection.leave(&self.claims, self.grace, &self.cut).await,
            Over::Drained { grace } => {
                self.screen.notice("drained", "the relay is going away; connecting again");
                let (grace, cut, done) = (*grace, self.cut.clone(), over.as_reason());
                self.draining.spawn(async move { connection.finish(grace, &cut, done).await });
            }
            // The newer session has the requests that come; those that are here are still this one's to answer.
            Over::Never(error @ SessionError::Superseded { .. }) => {
                self.screen.notice("superseded", &format!("{error}: finishing what is under way"));
                connection.leave(&self.claims, self.grace, &self.cut).await;
            }
            // In force since the relay said where it listens: a request may be here.
            Over::Never(SessionError::OtherPort { .. }) => {
                connection.leave(&self.claims, self.grace, &self.cut).await;
            }
            Over::Again(_) | Over::Never(_) => connection.close(&over.as_reason()).await,
        }
        over
    }

    /// What is wrong with where the relay listens for a claim's service. Addresses that are not understood are no proof of
    /// another port.
    fn other_port(&self, number: u64, listen: &[String]) -> Option<SessionError> {
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        let asked = self.ports.get(place).copied().flatten()?;
        let found =
            listen.iter().map(|address| address.parse::<SocketAddr>().ok().map(|address| address.port()));
        let ports = found.collect::<Option<Vec<u16>>>()?;
        if ports.is_empty() || ports.contains(&asked) {
            return None;
        }
        let service = self.claims.get(place)?.intercept.service.clone();
        Some(SessionError::OtherPort { service, asked, ports })
    }

    /// Every claim was accepted.
    fn ready(&mut self, welcome: &Welcome, how: &str, transport: Transport, listen: Vec<Vec<String>>) {
        let relay = self.dialler.relay();
        let identity = &welcome.identity;
        self.screen.notice("connected", &format!("connected to {relay} as {identity} over {how}"));
        for (claim, listen) in self.claims.iter().zip(&listen) {
            let Intercept { service, matcher, .. } = &claim.intercept;
            let listen = listen.join(", ");
            self.screen.notice("intercepting", &format!("{service} ({listen}): {matcher} -> {}", claim.app));
        }
        self.complained = false;
        self.state.send_replace(Some(Arc::new(Ready {
            relay: welcome.relay.clone(),
            identity: identity.clone(),
            transport,
            listen,
        })));
    }

    /// Once for each time that the relay is away, however often it is tried.
    fn complain(&mut self, why: &str, was_ready: bool) {
        tracing::debug!(why, "no session");
        if self.complained {
            return;
        }
        self.complained = true;
        if was_ready {
            self.screen.notice("lost", &format!("the relay is lost: {why}; connecting again"));
        } else {
            self.screen.notice("unreachable", &format!("{why}; trying again until it works (Ctrl-C stops)"));
        }
    }
}

/// The rung in use, and, where it is not the best one, what was wrong with that.
fn how(line: &Line) -> String {
    let rung = line.tunnel.transport();
    let tried = |missed: &&Missed| rung != Transport::Quic && !matches!(missed.why, Why::NotWanted);
    let missed: Vec<_> = line.missed.iter().filter(tried).map(ToString::to_string).collect();
    if missed.is_empty() { rung.to_string() } else { format!("{rung} ({})", missed.join("; ")) }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("relay", self.dialler.relay()).finish_non_exhaustive()
    }
}
