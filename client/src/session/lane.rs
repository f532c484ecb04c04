//! One tunnel that was welcomed: claims are announced on it, requests served, and both ends keep asking whether the
//! other is alive. A lane tells its session what becomes of it, and lets itself end in order; that another one is dialled, and
//! why, is the session's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::{DeniedCode, FromClient, FromRelay, HelloError};
use culvert_protocol::tunnel::{CloseCode, CloseReason, Closed};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ended::of_denial;
use super::shared::Shared;
use super::signs::Signs;
use super::{Control, Over, SessionError};
use crate::dial::{FAREWELL, Line};
use crate::screen::because;
use crate::serve;

/// How long the relay may take to answer for every claim.
const ANSWERS: Duration = Duration::from_secs(10);

/// How long the relay may take to give the claims up when we go. It needs one round trip.
const WITHDRAWN: Duration = Duration::from_secs(2);

/// The most that a draining relay can make us wait for what is under way.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// Who was asked so shortly before is not asked again with the answer to its own question.
const JUST_NOW: Duration = Duration::from_millis(250);

/// Who knocks may be anybody who can put the relay's address on a packet: that costs one ping in so long.
const KNOCKS: Duration = Duration::from_secs(1);

/// A beat that comes so late was not kept because this process did not run.
const STALL: Duration = Duration::from_secs(2);

/// Which lane: never used again in a session.
pub(super) type LaneId = u64;

pub(super) struct Lane {
    id: LaneId,
    shared: Arc<Shared>,
    line: Line,
    control: Control,
    serving: JoinSet<()>,
    /// No new exchanges.
    enough: CancellationToken,
    orders: Arc<Orders>,
    tell: mpsc::Sender<(LaneId, Told)>,
    signs: Signs,
    /// When the relay was last asked, and when it is to be asked again.
    beaten: Instant,
    beat_due: Instant,
    /// From when on a knock is heard.
    knock_due: Instant,
    pings: u64,
    in_force: bool,
}

/// What the session wants of a lane.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Another lane has its claims: give them back here, and finish what is under way however long it takes.
    pub(super) retire: CancellationToken,
    /// The network may be another one: ask at once whether the relay is still there.
    pub(super) check: Notify,
}

/// What becomes of a lane.
#[derive(Debug)]
pub(super) enum Told {
    /// Every claim is in force on it; where their services are listened for.
    InForce { listen: Vec<Vec<String>> },
    /// Its relay is in doubt, or is no longer.
    Doubtful(bool),
    /// Its relay goes away: it only finishes what is under way.
    Draining,
    /// The session cannot go on.
    Never(SessionError),
}

/// Why a lane was lost.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) why: String,
    /// A relay was there at that moment, and knew nothing of the tunnel.
    pub(super) relay_is_back: bool,
}

impl Lane {
    /// Serves requests from now on: one may come with the answer to its claim.
    pub(super) fn new(
        id: LaneId,
        shared: Arc<Shared>,
        line: Line,
        control: Control,
        orders: Arc<Orders>,
        tell: mpsc::Sender<(LaneId, Told)>,
    ) -> Self {
        let enough = CancellationToken::new();
        let mut serving = JoinSet::new();
        let (apps, screen) = (Arc::clone(&shared.apps), shared.screen.clone());
        serving.spawn(serve::accept(line.tunnel.clone(), apps, screen, enough.clone()));
        let now = Instant::now();
        let signs = Signs::new(now);
        Self {
            id,
            shared,
            line,
            control,
            serving,
            enough,
            orders,
            tell,
            signs,
            beaten: now,
            beat_due: now,
            knock_due: now,
            pings: 0,
            in_force: false,
        }
    }

    /// From the announcements to the last byte. Says why it was lost; none: it was meant to end.
    pub(super) async fn run(mut self) -> (LaneId, Option<Loss>) {
        let id = self.id;
        let over = self.converse().await;
        let reason = over.as_reason();
        let why = match over {
            Over::Stopped => {
                let grace = self.shared.grace;
                self.leave(Some(grace), reason).await;
                None
            }
            Over::Moved => {
                self.leave(None, reason).await;
                None
            }
            Over::Drained { grace } => {
                self.tell(Told::Draining).await;
                self.finish(Some(grace), reason).await;
                None
            }
            Over::Again(why) | Over::Away(why) => {
                self.shared.lose(id);
                self.close(&reason).await;
                Some(Loss { why, relay_is_back: false })
            }
            Over::Forgotten(why) => {
                self.shared.lose(id);
                self.close(&reason).await;
                Some(Loss { why, relay_is_back: true })
            }
            // What is here is still ours to answer, whoever has the requests that come: a claim that was taken over, or that
            // was in force since the relay said where it listens.
            Over::Never(error) => {
                let served = self.in_force
                    || matches!(error, SessionError::Superseded { .. } | SessionError::OtherPort { .. });
                let (why, grace) = (error.to_string(), self.shared.grace);
                self.tell(Told::Never(error)).await;
                match served {
                    true => self.leave(Some(grace), reason).await,
                    false => self.close(&reason).await,
                }
                Some(Loss { why, relay_is_back: false })
            }
        };
        (id, why)
    }

    /// Announces every claim and then stays until it is over.
    async fn converse(&mut self) -> Over {
        let shared = Arc::clone(&self.shared);
        for (number, claim) in (1..).zip(&shared.claims) {
            let (intercept, stamp) = (Box::new(claim.intercept.clone()), shared.stamp(number));
            if let Err(error) =
                self.control.say(&FromClient::Announce { claim: number, intercept, stamp }).await
            {
                return self.broken(&error).await;
            }
        }
        // Once the claims are in force here: nothing of theirs ends with a lane that was lost.
        let mut lost = shared.lost();
        lost.mark_changed();
        let answers_due = Instant::now() + ANSWERS;
        let mut accepted = BTreeMap::new();
        loop {
            if !self.in_force && accepted.len() >= shared.claims.len() {
                self.in_force = true;
                let listen = std::mem::take(&mut accepted).into_values().collect();
                self.tell(Told::InForce { listen }).await;
            }
            if let Some(doubtful) = self.signs.turned(Instant::now()) {
                self.tell(Told::Doubtful(doubtful)).await;
            }
            tokio::select! {
                // What the relay said comes before what became of the tunnel: it may say why.
                biased;
                heard = self.control.hear() => {
                    let message = match heard {
                        Ok(message) => message,
                        Err(error) => return self.broken(&error).await,
                    };
                    self.signs.heard(Instant::now());
                    match message {
                        FromRelay::Accepted { claim, listen, stamp, .. } => {
                            if let Some(stamp) = stamp {
                                shared.stamped(claim, stamp);
                            }
                            if shared.claim(claim).is_some() {
                                if let Some(error) = shared.other_port(claim, &listen) {
                                    return Over::Never(error);
                                }
                                accepted.insert(claim, listen);
                            }
                        }
                        FromRelay::Denied { claim, code, message, holder } => {
                            if let Some(claim) = shared.claim(claim) {
                                if code == DeniedCode::TooFast {
                                    return Over::Again(format!("the relay does not take the claim yet: {message}"));
                                }
                                return Over::Never(of_denial(&claim.intercept, code, message, holder));
                            }
                        }
                        FromRelay::Superseded { claim, by } => {
                            if let Some(claim) = shared.claim(claim) {
                                let name = claim.intercept.name.clone();
                                return Over::Never(SessionError::Superseded { name, by: Box::new(by) });
                            }
                        }
                        FromRelay::Drain { grace_ms, .. } => {
                            let grace = Duration::from_millis(grace_ms).min(LONGEST_GRACE);
                            return Over::Drained { grace };
                        }
                        FromRelay::Ping { n } => {
                            if let Err(error) = self.control.say(&FromClient::Pong { n }).await {
                                return self.broken(&error).await;
                            }
                            // In the same packet, unless it was done just now.
                            if self.beaten.elapsed() >= JUST_NOW && let Err(over) = self.beat().await {
                                return over;
                            }
                        }
                        FromRelay::Pong { n } => self.signs.answered(n),
                        FromRelay::Unknown(kind) => tracing::debug!(kind, "the relay says what we do not know"),
                        FromRelay::Welcome(_) | FromRelay::Reject { .. } | FromRelay::Listing { .. } => {}
                    }
                }
                () = shared.stop.cancelled() => return Over::Stopped,
                Ok(()) = lost.changed() => {
                    let tunnels = lost.borrow_and_update().clone();
                    if !tunnels.is_empty()
                        && let Err(error) = self.control.say(&FromClient::Lost { tunnels }).await
                    {
                        return self.broken(&error).await;
                    }
                }
                () = self.orders.retire.cancelled() => return Over::Moved,
                closed = self.line.tunnel.closed() => {
                    return self.over(&closed);
                }
                _ = self.serving.join_next() => {
                    // It ends with the tunnel only; the tunnel is asked first, but hears of it a moment later.
                    return self.broken(&std::io::Error::other("serving it stopped").into()).await;
                }
                () = self.orders.check.notified() => {
                    if let Err(error) = self.line.rebind() {
                        tracing::debug!(%error, "the tunnel stays on the socket that it has");
                    }
                    let asked = self.ping().await;
                    match asked {
                        Ok(number) => self.signs.probed(number, Instant::now()),
                        Err(error) => return self.broken(&error).await,
                    }
                }
                () = knocked(&self.line, self.knock_due) => {
                    self.knock_due = Instant::now() + KNOCKS;
                    // A relay that was started again resets the tunnel for it, and any other just answers.
                    if let Err(error) = self.ping().await {
                        return self.broken(&error).await;
                    }
                }
                () = sleep_until(self.beat_due) => {
                    if let Err(over) = self.beat().await {
                        return over;
                    }
                }
                () = sleep_until(self.signs.due()), if !self.signs.is_doubtful() => {
                    self.signs.passed(self.line.tunnel.traffic(), Instant::now());
                }
                () = sleep_until(answers_due), if !self.in_force => {
                    return Over::Again(format!("it did not answer for every claim within {} s", ANSWERS.as_secs()));
                }
            }
        }
    }

    /// Asks whether the relay is there, and sees whether it was.
    async fn beat(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        if now > self.beat_due + STALL {
            self.signs.excuse(now);
        }
        self.signs.passed(self.line.tunnel.traffic(), now);
        let after = self.signs.ping_after(now);
        // A little more, so that the relay's own ping is there by then and both are answered in one packet.
        (self.beaten, self.beat_due) = (now, now + after + after / 10);
        if self.signs.is_over(now) {
            return Err(Over::Again("it fell silent".to_owned()));
        }
        match self.ping().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(&error).await),
        }
    }

    /// Gives the claims back, and only when the relay has dealt with that stops serving: a request that it sent us in
    /// the meantime is answered, and the next one goes elsewhere.
    async fn leave(mut self, grace: Option<Duration>, reason: CloseReason) {
        let shared = Arc::clone(&self.shared);
        let withdrawing = async {
            for (number, _) in (1..).zip(&shared.claims) {
                self.control.say(&FromClient::Withdraw { claim: number }).await?;
            }
            let last = self.ping().await?;
            loop {
                match self.control.hear().await? {
                    // Messages are dealt with in order: now no claim is left.
                    FromRelay::Pong { n } if n == last => return Ok::<(), HelloError>(()),
                    FromRelay::Ping { n } => self.control.say(&FromClient::Pong { n }).await?,
                    _ => {}
                }
            }
        };
        tokio::select! {
            withdrawn = timeout(WITHDRAWN, withdrawing) => {
                if let Ok(Err(error)) = withdrawn {
                    tracing::debug!(%error, "the claims were not given back in order");
                }
            }
            () = shared.cut.cancelled() => {}
        }
        self.finish(grace, reason).await;
    }

    /// Takes no new exchange, and stays until those under way are done, the grace is over or somebody cuts it short. A session
    /// that ends has a grace of its own, also for a lane that had none or a longer one.
    async fn finish(mut self, grace: Option<Duration>, reason: CloseReason) {
        self.enough.cancel();
        let shared = Arc::clone(&self.shared);
        let begun = Instant::now();
        let mut end = grace.map(|grace| begun + grace);
        let mut stopping = shared.stop.is_cancelled();
        loop {
            let still_there = tokio::select! {
                _ = self.serving.join_next() => false,
                () = sleep_until(end.unwrap_or(begun)), if end.is_some() => false,
                () = shared.cut.cancelled() => false,
                () = shared.stop.cancelled(), if !stopping => {
                    stopping = true;
                    let last = Instant::now() + shared.grace;
                    end = Some(end.map_or(last, |end| end.min(last)));
                    true
                }
                heard = self.control.hear() => match heard {
                    Ok(FromRelay::Ping { n }) => {
                        self.signs.heard(Instant::now());
                        self.control.say(&FromClient::Pong { n }).await.is_ok()
                    }
                    Ok(_) => {
                        self.signs.heard(Instant::now());
                        true
                    }
                    Err(_) => false,
                },
                () = sleep_until(self.beat_due) => self.beat().await.is_ok(),
            };
            if !still_there {
                break;
            }
        }
        if !shared.cut.is_cancelled() {
            // The relay closes the tunnel when it has heard that; if we did it at once, that would never arrive. One
            // that does not answer sees the tunnel closed all the same.
            let leaving = async {
                if self.control.say(&FromClient::Leave).await.is_ok() {
                    self.line.tunnel.closed().await;
                }
            };
            let _ = timeout(FAREWELL, leaving).await;
        }
        self.close(&reason).await;
    }

    /// At once, with everything that is under way.
    async fn close(mut self, reason: &CloseReason) {
        self.serving.abort_all();
        drop(self.control);
        self.line.close(reason).await;
    }

    async fn ping(&mut self) -> Result<u64, HelloError> {
        self.pings += 1;
        let n = self.pings;
        self.control.say(&FromClient::Ping { n }).await?;
        self.signs.pinged(Instant::now());
        Ok(n)
    }

    /// A session that has ended listens no more, and need not.
    async fn tell(&self, told: Told) {
        let _ = self.tell.send((self.id, told)).await;
    }

    /// The control stream failed: mostly because the tunnel did, which then knows why.
    async fn broken(&self, error: &HelloError) -> Over {
        match timeout(FAREWELL, self.line.tunnel.closed()).await {
            Ok(closed) => self.over(&closed),
            Err(_) => Over::Again(because(error)),
        }
    }

    /// The tunnel is closed.
    fn over(&self, closed: &Closed) -> Over {
        self.line.ended(closed);
        Over::of_closed(closed, &self.line, self.shared.relay())
    }
}

/// One that comes too early is heard later.
async fn knocked(line: &Line, due: Instant) {
    sleep_until(due).await;
    line.knocked().await;
}

/// A tunnel that turned out to be one too many before anything was announced on it.
pub(super) async fn decline(line: Line, control: Control) {
    drop(control);
    line.close(&CloseReason::new(CloseCode::Shutdown, "the client has another tunnel")).await;
}
