//! A session: dial -> hello -> announce -> serve -> why it ended -> again, or stop. `Life::run` is the whole story.
//!
//! A session has a link to every replica of its relay, and a link has lanes: tunnels that all carry the same claims. A tunnel
//! that is in doubt, slow or on a lower rung than it could be is not repaired but gets another one beside it, which is announced
//! the same claims; what is under way on the old one ends there. What can heal by itself is tried again for ever; what cannot ends
//! the session with its reason. Holds no request: those are [`crate::serve`]'s.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_protocol::hello::Welcome;
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::Transport;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::dial::{Rungs, SetupError};
use crate::network::{Change, Watch};
use crate::profile::Profile;
use crate::screen::Screen;
use crate::status::Status;

mod backoff;
mod climb;
mod control;
mod dialling;
mod ended;
mod lane;
mod links;
mod pool;
mod shared;
mod signs;
#[cfg(test)]
pub(crate) mod tests;
mod told;

use backoff::Backoff;
pub(crate) use control::{Control, GreetError};
use dialling::{Greeted, dial};
pub(crate) use ended::Over;
pub use ended::SessionError;
use lane::{Lane, LaneId, Loss, Orders, Told, decline};
use links::{Aim, Held, Links, Stage};
use pool::Begun;
use shared::Shared;

/// A tunnel that lived so long was good: the next failure is a new one. Short, because something on the way may cut every
/// tunnel after a few seconds; long enough that a relay that cuts each at once is not dialled all the time.
const GOOD: Duration = Duration::from_secs(2);

/// A replica that was lost is mostly back within so long. Behind one address it is found by chance, and until then the tries that
/// come out at another one wait no longer than this for the next.
const RETURNING: Duration = Duration::from_secs(60);
const CHANCE: Duration = Duration::from_secs(2);

/// How long a session whose claims are in force at one replica waits for the others until it calls itself ready.
const EVERY_REPLICA: Duration = Duration::from_secs(2);

/// What lanes may have to say at once, and who may ask: then they wait.
const WAITING: usize = 32;

/// Nothing is due: the longest that the session waits for something to happen.
const IDLE: Duration = Duration::from_secs(3600);

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
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    life: JoinSet<Result<(), SessionError>>,
}

/// Where a session can be asked how it is, and to stop.
#[derive(Clone, Debug)]
pub struct Desk {
    asks: mpsc::Sender<Ask>,
    stop: CancellationToken,
}

type Ask = oneshot::Sender<Status>;

/// Every claim is in force, at every replica that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which replica this is, and the first one where there are several.
    pub relay: String,
    /// Who the relay takes us for.
    pub identity: String,
    /// The best that leads to it.
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
        let (show, state) = watch::channel(None);
        let (asks, asked) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::new(options, ports)?);
        let life = Life::new(Arc::clone(&shared), show);
        let mut tasks = JoinSet::new();
        tasks.spawn(Box::pin(life.run(asked)));
        Ok(Self { state, shared, asks, life: tasks })
    }

    /// Waits until every claim is in force; `None` when the session has ended and [`Session::ended`] says why.
    pub async fn ready(&mut self) -> Option<Arc<Ready>> {
        self.ready_again(None).await
    }

    /// The same after a time without: not what was so `before`.
    pub async fn ready_again(&mut self, before: Option<&Arc<Ready>>) -> Option<Arc<Ready>> {
        let is_new = |now: &Arc<Ready>| !before.is_some_and(|before| Arc::ptr_eq(before, now));
        let state = self.state.wait_for(|state| state.as_ref().is_some_and(is_new)).await.ok()?;
        state.clone()
    }

    /// What is in force right now: `None` while there is no tunnel.
    pub fn now(&self) -> Option<Arc<Ready>> {
        self.state.borrow().clone()
    }

    /// Gives the claims back at once, finishes what is under way, and ends.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    pub fn desk(&self) -> Desk {
        Desk { asks: self.asks.clone(), stop: self.shared.stop.clone() }
    }

    /// Ends without finishing anything.
    pub fn cut(&self) {
        self.shared.stop.cancel();
        self.shared.cut.cancel();
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

impl Desk {
    /// How the session is; none: it has ended.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.asks.send(answer).await.ok()?;
        status.await.ok()
    }

    /// As [`Session::stop`].
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// What a session is from its start to its end.
struct Life {
    shared: Arc<Shared>,
    links: Links,
    lanes: JoinSet<(LaneId, Option<Loss>)>,
    tell: mpsc::Sender<(LaneId, Told)>,
    told: mpsc::Receiver<(LaneId, Told)>,
    dials: JoinSet<(Aim, Result<Greeted, Over>)>,
    /// A replica is being dialled, whichever answers.
    seeking: Option<AbortHandle>,
    /// How often one was: each time at the next of the relay's addresses.
    seeks: usize,
    /// When it may be, and how long it is waited after failures.
    seek_due: Instant,
    backoff: Backoff,
    /// The same after tunnels that came out at a replica which has one already.
    chances: Backoff,
    /// When a replica was lost for the last time.
    lost: Instant,
    /// Tunnels that turned out to be one too many.
    declined: JoinSet<()>,
    network: Watch,
    state: watch::Sender<Option<Arc<Ready>>>,
    /// Until when the claims need not be in force at every replica for the session to be ready.
    ready_due: Option<Instant>,
    /// What the relay said of us, and where it listens for each claim's service.
    identity: String,
    listen: Vec<Vec<String>>,
    /// There was a tunnel on which everything was in force.
    was_ready: bool,
    /// That there is no tunnel has been said, and is not said again until there was one.
    complained: bool,
    /// What was last wrong.
    trouble: Option<String>,
    since: SystemTime,
}

impl Life {
    fn new(shared: Arc<Shared>, state: watch::Sender<Option<Arc<Ready>>>) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self {
            links: Links::new(shared.places.len().clamp(1, links::REPLICAS)),
            shared,
            lanes: JoinSet::new(),
            tell,
            told,
            dials: JoinSet::new(),
            seeking: None,
            seeks: 0,
            seek_due: Instant::now(),
            backoff: Backoff::default(),
            chances: Backoff::default(),
            lost: Instant::now(),
            declined: JoinSet::new(),
            network: Watch::new(),
            state,
            ready_due: None,
            identity: String::new(),
            listen: Vec::new(),
            was_ready: false,
            complained: false,
            trouble: None,
            since: SystemTime::now(),
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) -> Result<(), SessionError> {
        let shared = Arc::clone(&self.shared);
        let ended = loop {
            if let Err(error) = self.dial_what_is_missing() {
                break Err(error);
            }
            let (due, toward) = (self.due(), self.links.addresses().next());
            let turn = tokio::select! {
                biased;
                () = shared.stop.cancelled() => break Ok(()),
                Some((lane, told)) = self.told.recv() => self.hear(lane, told),
                Some(ended) = self.lanes.join_next() => self.part(ended),
                Some(dialled) = self.dials.join_next() => self.arrive(dialled),
                Some(_) = self.declined.join_next() => Ok(()),
                change = self.network.changed(toward) => self.check(change),
                Some(answer) = asked.recv() => self.answer(answer),
                () = sleep_until(due) => Ok(()),
            };
            if let Err(error) = turn {
                break Err(error);
            }
            self.show();
        };
        self.leave(ended.as_ref().err()).await;
        ended
    }

    /// Every reason to dial: a replica without a tunnel that is well, a better rung, a bulk transfer that others would wait for.
    fn dial_what_is_missing(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        let mut aims = self.links.look(self.shared.climbs(), now);
        if self.links.is_missing() && self.seeking.is_none() && self.seek_due <= now {
            match self.shared.expired() {
                None => {
                    aims.push(Aim::Replica { place: self.seeks % self.shared.places.len().max(1) });
                    self.seeks = self.seeks.wrapping_add(1);
                }
                // No replica would take us now; those that have can be served as long as they are there.
                Some(_) if self.links.is_in_force() => self.seek_due = now + GOOD,
                Some(error) => return Err(error),
            }
        }
        for aim in aims {
            let taken = self.links.addresses().map(|address| address.ip()).collect();
            let seeks = aim.is_replica();
            let dialling = self.dials.spawn(Box::pin(dial(Arc::clone(&self.shared), aim, taken)));
            if seeks {
                self.seeking = Some(dialling);
            }
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        let now = Instant::now();
        let seek = (self.links.is_missing() && self.seeking.is_none()).then_some(self.seek_due);
        let dues = [seek, self.links.due(self.shared.climbs()), self.ready_due];
        dues.into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    /// A dial is over: the tunnel is taken, or is one too many, or there is none.
    fn arrive(
        &mut self,
        dialled: Result<(Aim, Result<Greeted, Over>), JoinError>,
    ) -> Result<(), SessionError> {
        let (aim, greeted) = match dialled {
            Ok(dialled) => dialled,
            // Given up for another one.
            Err(stopped) if stopped.is_cancelled() => return Ok(()),
            Err(_) => return Err(SessionError::Broken),
        };
        let now = Instant::now();
        self.links.dialled(&aim);
        if aim.is_replica() {
            self.seeking = None;
        }
        let Greeted { id, line, control, welcome, missed, how } = match (greeted, &aim) {
            (Ok(greeted), _) => {
                self.backoff.met();
                greeted
            }
            (Err(Over::Never(error)), Aim::Replica { .. })
                if !(self.was_ready && error.may_be_a_portal()) =>
            {
                return Err(error);
            }
            (Err(over), Aim::Replica { .. }) => {
                let wait = match over {
                    Over::Away(_) => self.backoff.next_away(now, rand::random()),
                    _ => self.backoff.next(rand::random()),
                };
                self.fail(over.to_string(), wait);
                return Ok(());
            }
            (Err(over), Aim::Climb { .. } | Aim::Grow { .. }) => {
                let rung = aim.rung();
                self.links.failed(&aim, rung.map(|rung| (rung, over.to_string())), now);
                return Ok(());
            }
        };
        let Welcome { relay, replicas, identity, .. } = welcome;
        self.links.learn(replicas);
        self.identity = identity;
        let rung = line.tunnel.transport();
        if !self.links.takes(&aim, &relay, rung) {
            self.declined.spawn(decline(line, control));
            self.links.failed(&aim, None, now);
            if aim.is_replica() {
                let longest = if now < self.lost + RETURNING { CHANCE } else { Backoff::LONGEST };
                self.seek_due = now + self.chances.next_within(longest, rand::random());
                self.ready_due = self.ready_due.map(|due| due.min(now));
            }
            return Ok(());
        }
        // How long this one was looked for is no reason to wait before the next is.
        self.chances.reset();
        let orders = Arc::<Orders>::default();
        let lane = Held {
            id,
            tunnel: line.tunnel.clone(),
            place: aim.place(),
            address: line.address,
            udp: line.udp_buffers(),
            how,
            since: SystemTime::now(),
            begun: now,
            exchanges: Begun::new(now),
            stage: Stage::Joining,
            doubtful: false,
            orders: Arc::clone(&orders),
        };
        self.links.add(&relay, lane, now);
        if let Some(link) = self.links.link(&relay)
            && aim.is_replica()
        {
            link.missed = missed;
        }
        let lane = Lane::new(id, Arc::clone(&self.shared), line, control, orders, self.tell.clone());
        self.lanes.spawn(Box::pin(lane.run()));
        Ok(())
    }

    /// A lane has news.
    fn hear(&mut self, id: LaneId, told: Told) -> Result<(), SessionError> {
        let now = Instant::now();
        match told {
            Told::InForce { listen } => {
                self.listen = listen;
                self.links.in_force(id, now);
                self.ready_due.get_or_insert(now + EVERY_REPLICA);
            }
            Told::Doubtful(doubtful) => {
                if let Some(lane) = self.links.lane(id) {
                    lane.doubtful = doubtful;
                }
                if doubtful {
                    self.trouble = Some("it is silent".to_owned());
                    self.seek_due = now;
                }
            }
            Told::Draining => {
                if let Some(lane) = self.links.lane(id) {
                    lane.stage = Stage::Leaving;
                }
                self.shared.screen.notice("drained", "the relay is going away; connecting again");
                if !self.links.is_in_force() {
                    self.state.send_replace(None);
                }
                (self.lost, self.seek_due) = (now, now + self.backoff.next(rand::random()));
            }
            Told::Never(error) => return Err(error),
        }
        Ok(())
    }

    /// A lane has ended; `why`, if it was not meant to.
    fn part(&mut self, ended: Result<(LaneId, Option<Loss>), JoinError>) -> Result<(), SessionError> {
        let (id, loss) = ended.map_err(|_| SessionError::Broken)?;
        let Some(lane) = self.links.remove(id) else { return Ok(()) };
        let Some(Loss { why, relay_is_back }) = loss else { return Ok(()) };
        self.lost = Instant::now();
        if lane.stage == Stage::InForce && lane.begun.elapsed() >= GOOD {
            self.backoff.reset();
            // What was said while it was away is said again later and later, and it is there now.
            // One that is over is yet to be heard.
            let seeking = self.seeking.take_if(|seeking| relay_is_back && !seeking.is_finished());
            if let Some(seeking) = seeking {
                seeking.abort();
            }
        }
        let wait = self.backoff.next(rand::random());
        self.fail(why, wait);
        Ok(())
    }

    fn fail(&mut self, why: String, wait: Duration) {
        tracing::debug!(why, "no tunnel");
        self.seek_due = Instant::now() + wait;
        // With some replicas in force and another one away, there is nothing left to wait for.
        self.ready_due = self.ready_due.map(|due| due.min(Instant::now()));
        if !self.links.is_in_force() && self.state.borrow().is_none() {
            self.complain(|| format!("{why}; trying again until it works (Ctrl-C stops)"), "unreachable");
        }
        self.trouble = Some(why);
    }

    /// The network may be another one. Nothing is waited for any more: every lane is asked, and what is missing is dialled.
    fn check(&mut self, change: Change) -> Result<(), SessionError> {
        tracing::debug!(%change, "asking the relay whether it is there");
        let now = Instant::now();
        self.links.lanes().for_each(|lane| lane.orders.check.notify_one());
        self.links.look_up(now);
        self.backoff.reset();
        self.seek_due = now;
        Ok(())
    }

    /// Stops everything in order: claims are given back, and what is under way is finished within the grace.
    async fn leave(mut self, why: Option<&SessionError>) {
        self.state.send_replace(None);
        if let Some(error @ SessionError::Superseded { .. }) = why {
            self.shared.screen.notice("superseded", &format!("{error}: finishing what is under way"));
        }
        self.shared.stop.cancel();
        // Nobody listens to them any more.
        drop(self.told);
        self.dials.shutdown().await;
        // Each of them is limited: by its grace, or by the time that a farewell may take.
        while self.lanes.join_next().await.is_some() {}
        while self.declined.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("relay", self.shared.relay()).finish_non_exhaustive()
    }
}
