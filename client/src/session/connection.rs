//! One tunnel that was welcomed: claims are announced on it, requests served, and both ends keep asking whether the
//! other is alive. Says how it ended, and lets it end in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::{FromClient, FromRelay, HelloError, Welcome};
use culvert_protocol::tunnel::{CloseCode, CloseReason};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ended::of_denial;
use super::{Claim, Control, Life, Over, SessionError};
use crate::dial::{FAREWELL, Line};
use crate::screen::{Screen, because};
use crate::serve::{self, Apps};

/// How often the relay is asked whether it is there.
const PING: Duration = Duration::from_secs(2);

/// A relay that has said nothing for so long is lost: four pings unanswered.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the relay may take to answer for every claim.
const ANSWERS: Duration = Duration::from_secs(10);

/// How long the relay may take to give the claims up when we go. It needs one round trip.
const WITHDRAWN: Duration = Duration::from_secs(2);

/// The most that a draining relay can make us wait for what is under way.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

pub(super) struct Connection {
    line: Line,
    control: Control,
    serving: JoinSet<()>,
    /// No new exchanges.
    enough: CancellationToken,
    pings: Pings,
}

/// When to ask, and when the relay last said anything.
struct Pings {
    due: Interval,
    number: u64,
    heard: Instant,
}

impl Connection {
    /// Serves requests from now on: one may come with the answer to its claim.
    pub(super) fn serve(line: Line, control: Control, apps: &Arc<Apps>, screen: &Screen) -> Self {
        let enough = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve::accept(line.tunnel.clone(), Arc::clone(apps), screen.clone(), enough.clone()));
        let mut due = interval(PING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pings = Pings { due, number: 0, heard: Instant::now() };
        Self { line, control, serving, enough, pings }
    }

    /// Announces every claim and then stays until it is over.
    pub(super) async fn converse(&mut self, life: &mut Life, welcome: &Welcome, how: &str) -> Over {
        let mut accepted = BTreeMap::new();
        for (number, claim) in (1..).zip(&life.claims) {
            let intercept = Box::new(claim.intercept.clone());
            if let Err(error) =
                self.control.say(&FromClient::Announce { claim: number, intercept, stamp: None }).await
            {
                return self.broken(life, &error).await;
            }
        }
        let answers_due = Instant::now() + ANSWERS;
        let mut waiting = true;
        loop {
            if waiting && accepted.len() >= life.claims.len() {
                waiting = false;
                let listen = std::mem::take(&mut accepted).into_values().collect();
                life.ready(welcome, how, self.line.tunnel.transport(), listen);
            }
            tokio::select! {
                // What the relay said comes before what became of the tunnel: it may say why.
                biased;
                heard = self.control.hear() => {
                    self.pings.heard = Instant::now();
                    let message = match heard {
                        Ok(message) => message,
                        Err(error) => return self.broken(life, &error).await,
                    };
                    match message {
                        FromRelay::Accepted { claim, listen, .. } => {
                            if claim_of(&life.claims, claim).is_some() {
                                if let Some(error) = life.other_port(claim, &listen) {
                                    return Over::Never(error);
                                }
                                accepted.insert(claim, listen);
                            }
                        }
                        FromRelay::Denied { claim, code, message, holder } => {
                            if let Some(claim) = claim_of(&life.claims, claim) {
                                return Over::Never(of_denial(&claim.intercept, code, message, holder));
                            }
                        }
                        FromRelay::Superseded { claim, by } => {
                            if let Some(claim) = claim_of(&life.claims, claim) {
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
                                return self.broken(life, &error).await;
                            }
                        }
                        FromRelay::Unknown(kind) => tracing::debug!(kind, "the relay says what we do not know"),
                        FromRelay::Pong { .. }
                        | FromRelay::Welcome(_)
                        | FromRelay::Reject { .. }
                        | FromRelay::Listing { .. } => {}
                    }
                }
                () = life.stop.cancelled() => return Over::Stopped,
                closed = self.line.tunnel.closed() => {
                    return Over::of_closed(&closed, &self.line, life.dialler.relay());
                }
                _ = self.serving.join_next() => {
                    // It ends with the tunnel only; the tunnel is asked first, but hears of it a moment later.
                    return self.broken(life, &std::io::Error::other("serving it stopped").into()).await;
                }
                _ = self.pings.due.tick() => {
                    if self.pings.heard.elapsed() >= SILENCE {
                        return Over::Again(format!("it has been silent for {} s", SILENCE.as_secs()));
                    }
                    if let Err(error) = self.ping().await {
                        return self.broken(life, &error).await;
                    }
                }
                () = sleep_until(answers_due), if waiting => {
                    return Over::Again(format!("it did not answer for every claim within {} s", ANSWERS.as_secs()));
                }
            }
        }
    }

    /// Gives the claims back, and only when the relay has dealt with that stops serving: a request that it sent us in
    /// the meantime is answered, and the next one goes to the upstream.
    pub(super) async fn leave(mut self, claims: &[Claim], grace: Duration, cut: &CancellationToken) {
        let withdrawing = async {
            for (number, _) in (1..).zip(claims) {
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
            () = cut.cancelled() => {}
        }
        self.finish(grace, cut, CloseReason::new(CloseCode::Shutdown, "the client was stopped")).await;
    }

    /// Takes no new exchange, and stays until those under way are done, the grace is over or somebody cuts it short.
    pub(super) async fn finish(mut self, grace: Duration, cut: &CancellationToken, reason: CloseReason) {
        self.enough.cancel();
        let end = sleep(grace);
        tokio::pin!(end);
        loop {
            let still_there = tokio::select! {
                _ = self.serving.join_next() => false,
                () = &mut end => false,
                () = cut.cancelled() => false,
                heard = self.control.hear() => match heard {
                    Ok(FromRelay::Ping { n }) => self.control.say(&FromClient::Pong { n }).await.is_ok(),
                    Ok(_) => true,
                    Err(_) => false,
                },
                _ = self.pings.due.tick() => self.ping().await.is_ok(),
            };
            if !still_there {
                break;
            }
        }
        if !cut.is_cancelled() {
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
    pub(super) async fn close(mut self, reason: &CloseReason) {
        self.serving.abort_all();
        drop(self.control);
        self.line.close(reason).await;
    }

    async fn ping(&mut self) -> Result<u64, HelloError> {
        self.pings.number += 1;
        let n = self.pings.number;
        self.control.say(&FromClient::Ping { n }).await?;
        Ok(n)
    }

    /// The control stream failed: mostly because the tunnel did, which then knows why.
    async fn broken(&self, life: &Life, error: &HelloError) -> Over {
        match timeout(FAREWELL, self.line.tunnel.closed()).await {
            Ok(closed) => Over::of_closed(&closed, &self.line, life.dialler.relay()),
            Err(_) => Over::Again(because(error)),
        }
    }
}

fn claim_of(claims: &[Claim], number: u64) -> Option<&Claim> {
    claims.get(usize::try_from(number.checked_sub(1)?).ok()?)
}
