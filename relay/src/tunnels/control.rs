//! The control stream of a tunnel that is up: what the client says and what it is told. One task, and nothing in it
//! waits for the client without a limit.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::{DeniedCode, FromClient, FromRelay, MAX_LOST, Messages, write_message};
use culvert_protocol::tunnel::{IDLE_LIMIT, RecvHalf, SendHalf};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, info};

use super::Port;
use super::leaving::Left;
use super::pace::Pace;
use super::registry::{Announced, Ended, Registration};
use super::session::{DOUBT, Session};
use crate::policy::{Verb, allow};

/// How often a tunnel is looked at.
const BEAT: Duration = Duration::from_secs(1);
/// At how many looks the client is asked for a sign of life, while requests are under way and otherwise. It asks us, too, so that
/// there are words from it anyway, and what ours are for is to know that it hears us.
const LOOKS: u64 = 2;
const LOOKS_AT_REST: u64 = 4;
/// No word for so long, and the client is gone, whatever its transport believes. Until then what is under way may go on where it
/// stopped: a machine that was carried through a lift costs running answers nothing.
const SILENCE: Duration = IDLE_LIMIT;
/// A client that takes longer to read a control message does not read them.
const SAYING: Duration = Duration::from_secs(5);

/// Both halves of the control stream.
pub(super) struct Control {
    messages: Messages<RecvHalf>,
    write: SendHalf,
}

/// What a session has said so far.
#[derive(Debug)]
struct Said {
    /// Claims in force, by the client's numbers. Dropping one takes it out.
    claims: HashMap<u64, Box<Registration>>,
    /// Of what is asked for besides claims.
    pace: Pace,
    left: bool,
    /// The last ping, until it is answered.
    ping: Option<(u64, Instant)>,
    /// Since when none is.
    unanswered: Option<Instant>,
    pings: u64,
    looks: u64,
}

impl Control {
    pub(super) fn new(messages: Messages<RecvHalf>, write: SendHalf) -> Self {
        Self { messages, write }
    }

    /// Keeps a session until its tunnel ends, one side wants it to, or the client falls silent. Its claims are out when
    /// this returns, or is dropped.
    pub(super) async fn serve(&mut self, session: &Arc<Session>, port: &Port) -> Left {
        let _up = port.metrics.up(session.transport.label());
        info!(session = %session.id, host = %session.host, user = session.user, transport = %session.transport, "a tunnel is up");
        let mut said = Said {
            claims: HashMap::new(),
            pace: Pace::new(Instant::now()),
            left: false,
            ping: None,
            unanswered: None,
            pings: 0,
            looks: 0,
        };
        let Err(left) = self.converse(&mut said, session, port).await;
        for registration in said.claims.into_values() {
            registration.end(left.ended());
        }
        left
    }

    async fn converse(
        &mut self,
        said: &mut Said,
        session: &Arc<Session>,
        port: &Port,
    ) -> Result<Infallible, Left> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            tokio::select! {
                // In this order: a client that never stops talking keeps none of the rest from being done.
                biased;
                () = port.close.cancelled() => return Err(Left::Stopped),
                () = port.drain.cancelled(), if !draining => {
                    draining = true;
                    let grace_ms = u64::try_from(port.grace.as_millis()).unwrap_or(u64::MAX);
                    self.say(&FromRelay::Drain { grace_ms, reason: "the relay is stopping".to_owned() }).await?;
                }
                message = session.told() => {
                    // The registry has taken it out already.
                    if let FromRelay::Superseded { claim, .. } | FromRelay::Denied { claim, .. } = &message {
                        said.claims.remove(claim);
                    }
                    self.say(&message).await?;
                }
                _ = beat.tick() => {
                    session.look();
                    // Who speaks and does not hear is gone as well: such a client may give the tunnel up without a word.
                    let deaf = session.is_deaf() && said.unanswered.is_some_and(|since| since.elapsed() > SILENCE);
                    if deaf || session.heard_at().elapsed() > SILENCE {
                        return Err(Left::Silent);
                    }
                    let due = if session.load.open() > 0 { LOOKS } else { LOOKS_AT_REST };
                    if said.looks.is_multiple_of(due) {
                        self.ping(said).await?;
                    }
                    said.looks += 1;
                }
                () = session.asked() => self.ping(said).await?,
                // Exchanges are opened by the relay alone: what else a client opens leads nowhere and is reset. An
                // error is the tunnel's end.
                stray = session.tunnel.accept() => {
                    drop(stray?);
                    port.metrics.stray_streams.inc();
                }
                message = self.messages.next() => {
                    // A client that has left may end its control stream.
                    let message = message?.ok_or(if said.left { Left::Asked } else { Left::NoControl })?;
                    session.heard();
                    // On its own, and given back: most of the time a tunnel waits.
                    Box::pin(self.answer(message, said, session, port)).await?;
                }
                // After what may have come meanwhile: a relay that was itself stopped for a while doubts nobody for it.
                () = sleep_until(session.heard_at() + DOUBT), if session.doubted().is_none() => {
                    if session.heard_at().elapsed() >= DOUBT {
                        session.doubt();
                    }
                }
                // It speaks, and what is said to it does not arrive: nor would a request.
                () = sleep_until(session.deaf_from(said.unanswered.unwrap_or_else(Instant::now))),
                    if said.unanswered.is_some() && !session.is_deaf() => {
                    if said.unanswered.is_some_and(|since| session.deaf_from(since) <= Instant::now()) {
                        session.deaf();
                    }
                }
            }
        }
    }

    async fn answer(
        &mut self,
        message: FromClient,
        said: &mut Said,
        session: &Arc<Session>,
        port: &Port,
    ) -> Result<(), Left> {
        match message {
            FromClient::Announce { claim, intercept, stamp } => {
                let announced = Announced { number: claim, intercept: *intercept, stamp };
                let answer = announce(announced, said, session, port);
                self.say(&answer).await
            }
            FromClient::Unreadable { claim, why } => {
                port.metrics.claimed("invalid");
                self.say(&invalid(claim, why)).await
            }
            FromClient::Withdraw { claim } => {
                if let Some(registration) = said.claims.remove(&claim) {
                    registration.end(Ended::Withdrawn);
                }
                Ok(())
            }
            FromClient::List => {
                if allow(&session.identity, Verb::List).is_ok() && said.pace.take(Instant::now()) {
                    for part in port.registry.listing() {
                        self.say(&part).await?;
                    }
                }
                Ok(())
            }
            FromClient::Ping { n } => self.say(&FromRelay::Pong { n }).await,
            FromClient::Pong { n } => {
                said.unanswered = None;
                session.hears();
                if let Some((_, at)) = said.ping.take_if(|(last, _)| *last == n) {
                    session.answered_in(at.elapsed());
                }
                Ok(())
            }
            FromClient::Lost { tunnels } => {
                // One that says so too often waits until they are silent for long enough.
                if said.pace.take(Instant::now()) {
                    session.lose(tunnels.get(..MAX_LOST).unwrap_or(&tunnels));
                }
                Ok(())
            }
            FromClient::Leave => {
                // The tunnel stays: what is under way is the client's to finish, and the client closes.
                said.left = true;
                said.claims.drain().for_each(|(_, registration)| registration.end(Ended::Left));
                Ok(())
            }
            FromClient::Hello(_) => Err(Left::Protocol("a second hello".to_owned())),
            FromClient::Unknown(_) => {
                port.metrics.unknown_messages.inc();
                Ok(())
            }
        }
    }

    /// Asks for a sign of life. Only the newest ping is measured.
    async fn ping(&mut self, said: &mut Said) -> Result<(), Left> {
        said.pings += 1;
        let now = Instant::now();
        said.ping = Some((said.pings, now));
        said.unanswered.get_or_insert(now);
        self.say(&FromRelay::Ping { n: said.pings }).await
    }

    pub(super) async fn say(&mut self, message: &FromRelay) -> Result<(), Left> {
        timeout(SAYING, write_message(&mut self.write, message)).await.map_err(|_| Left::NotReading)??;
        Ok(())
    }
}

fn announce(announced: Announced, said: &mut Said, session: &Arc<Session>, port: &Port) -> FromRelay {
    let claim = announced.number;
    if said.left {
        return invalid(claim, "the client has left".to_owned());
    }
    if said.claims.contains_key(&claim) {
        return invalid(claim, format!("claim {claim} is in force already: a number is used once"));
    }
    let intercept = &announced.intercept;
    let (service, matcher, name) =
        (intercept.service.clone(), intercept.matcher.clone(), intercept.name.clone());
    let registered = port.registry.register(session, announced);
    let quiet = port.registry.is_quiet(&session.identity.name);
    match registered {
        Ok(registration) => {
            let Registration { generation, joined, .. } = registration;
            let (listen, stamp) = (registration.listen.clone(), Some(registration.stamp.clone()));
            said.claims.insert(claim, Box::new(registration));
            port.metrics.claimed("accepted");
            match quiet || joined {
                false => info!(%service, %name, %matcher, generation, "claimed"),
                true => debug!(%service, %name, %matcher, generation, joined, "claimed"),
            }
            FromRelay::Accepted { claim, generation, listen, stamp }
        }
        Err(refused) => {
            port.metrics.claimed(refused.label());
            match quiet {
                false => info!(%service, %name, %matcher, "claim denied: {refused}"),
                true => debug!(%service, %name, %matcher, "claim denied: {refused}"),
            }
            refused.denial(claim)
        }
    }
}

fn invalid(claim: u64, message: String) -> FromRelay {
    FromRelay::Denied { claim, code: DeniedCode::Invalid, message, holder: None }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}
