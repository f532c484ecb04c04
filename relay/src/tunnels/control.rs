//! The control stream of a tunnel that is up: what the client says and what it is told. One task, and nothing in it
//! waits for the client without a limit.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::hello::{DeniedCode, FromClient, FromRelay, Messages, write_message};
use culvert_protocol::intercept::Intercept;
use culvert_protocol::tunnel::{RecvHalf, SendHalf};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info};

use super::Port;
use super::leaving::Left;
use super::pace::Pace;
use super::registry::{Refused, Registration};
use super::session::Session;
use crate::policy::{Verb, allow};

/// How often each side asks the other for a sign of life.
const BEAT: Duration = Duration::from_secs(3);
/// No word for so long, and the client is gone, whatever its transport believes.
const SILENCE: Duration = Duration::from_secs(10);
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
    claims: HashMap<u64, Registration>,
    pace: Pace,
    left: bool,
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
        match self.converse(session, port).await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn converse(
        &mut self,
        session: &Arc<Session>,
        port: &Port,
    ) -> Result<std::convert::Infallible, Left> {
        let mut said = Said { claims: HashMap::new(), pace: Pace::new(Instant::now()), left: false };
        let mut mail = session.mailbox().ok_or(Left::Internal)?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0;
        let mut heard = Instant::now();
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
                Some(message) = mail.recv() => {
                    if let FromRelay::Superseded { claim, .. } = &message {
                        said.claims.remove(claim);
                    }
                    self.say(&message).await?;
                }
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(Left::Silent);
                    }
                    beats += 1;
                    self.say(&FromRelay::Ping { n: beats }).await?;
                }
                // Exchanges are opened by the relay alone: what else a client opens leads nowhere and is reset. An
                // error is the tunnel's end.
                stray = session.tunnel.accept() => {
                    drop(stray?);
                    port.metrics.stray_streams.inc();
                }
                message = self.messages.next() => {
                    // A client that has left may end its control stream.
                    let message = message?.ok_or(if said.left { Left::Asked } else { Left::NoControl })?;
                    heard = Instant::now();
                    session.seen();
                    self.answer(message, &mut said, session, port).await?;
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
            FromClient::Announce { claim, intercept, stamp: _ } => {
                let answer = announce(claim, *intercept, said, session, port);
                self.say(&answer).await
            }
            FromClient::Unreadable { claim, why } => {
                port.metrics.claimed("invalid");
                self.say(&invalid(claim, why)).await
            }
            FromClient::Withdraw { claim } => {
                if said.claims.remove(&claim).is_some() {
                    // Never refused, which would keep a claim in force that nobody wants; it leaves less for the next.
                    said.pace.take(Instant::now());
                }
                Ok(())
            }
            FromClient::List => {
                if allow(&session.identity, Verb::List).is_ok() {
                    for part in port.registry.listing() {
                        self.say(&part).await?;
                    }
                }
                Ok(())
            }
            FromClient::Ping { n } => self.say(&FromRelay::Pong { n }).await,
            FromClient::Pong { .. } => Ok(()),
            FromClient::Leave => {
                // The tunnel stays: what is under way is the client's to finish, and the client closes.
                said.left = true;
                said.claims.clear();
                Ok(())
            }
            FromClient::Hello(_) => Err(Left::Protocol("a second hello".to_owned())),
            FromClient::Unknown(_) => {
                port.metrics.unknown_messages.inc();
                Ok(())
            }
        }
    }

    pub(super) async fn say(&mut self, message: &FromRelay) -> Result<(), Left> {
        timeout(SAYING, write_message(&mut self.write, message)).await.map_err(|_| Left::NotReading)??;
        Ok(())
    }
}

fn announce(
    claim: u64,
    intercept: Intercept,
    said: &mut Said,
    session: &Arc<Session>,
    port: &Port,
) -> FromRelay {
    if said.left {
        return invalid(claim, "the client has left".to_owned());
    }
    if said.claims.contains_key(&claim) {
        return invalid(claim, format!("claim {claim} is in force already: a number is used once"));
    }
    let (service, matcher) = (intercept.service.clone(), intercept.matcher.clone());
    let registered = if said.pace.take(Instant::now()) {
        port.registry.register(session, claim, intercept)
    } else {
        Err(Refused::TooFast)
    };
    let quiet = said.pace.is_quiet();
    match registered {
        Ok(registration) => {
            let (generation, listen) = (registration.generation, registration.listen.clone());
            said.claims.insert(claim, registration);
            port.metrics.claimed("accepted");
            match quiet {
                false => info!(%service, %matcher, generation, "claimed"),
                true => debug!(%service, %matcher, generation, "claimed"),
            }
            FromRelay::Accepted { claim, generation, listen, stamp: None }
        }
        Err(refused) => {
            port.metrics.claimed(refused.label());
            match quiet {
                false => info!(%service, %matcher, "claim denied: {refused}"),
                true => debug!(%service, %matcher, "claim denied: {refused}"),
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
