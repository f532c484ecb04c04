//! One exchange with the app: the head as it came, both bodies at once, and what is said when the app does not play along.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use culvert_certs::tls::OriginFailure;
use culvert_protocol::answers::{Answers, MOST_INFORMED, NoAnswer, Said};
use culvert_protocol::body::{
    CopyError, Cut, Idle, Kept, Piece, Sink, Source, TunnelReader, copy, copy_seen,
};
use culvert_protocol::frame::{self, Frame};
use culvert_protocol::message::{Body, RequestHead, ResponseHead};
use culvert_protocol::origin::{Connection, Origin};
use culvert_protocol::tunnel::SendHalf;
use tokio::time::timeout;

use super::RELAY;
use super::failure::{Failure, bad_answer, cancelled, cut_short, no_answer, not_a_head, not_taken};
use super::record::Record;

/// An app on the same machine answers a connect at once, or is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer within this says by itself that the request was accepted, and saves a packet.
const ACCEPT: Duration = Duration::from_millis(10);
/// A developer may sit at a breakpoint, and an event stream may be silent. Whether the relay is there is watched elsewhere.
const SILENCE: Duration = Duration::from_secs(60 * 60);
const IDLE: Idle = Idle { source: SILENCE, sink: SILENCE };

/// What became of a request.
pub(super) enum Served {
    Answered,
    /// The app never had it.
    Unreachable(String),
    /// The app may have had it, and there is no answer.
    Failed(Failure),
}

/// `confirm`: the request may be sent elsewhere for as long as the relay has not said that it will not be.
pub(super) async fn serve(
    head: &RequestHead,
    confirm: bool,
    frames: &mut TunnelReader,
    answers: &mut frame::Writer<SendHalf>,
    origin: &Origin,
    record: &mut Record<'_>,
) -> Served {
    let upgrades = !head.upgrade.is_empty();
    let mut kept = origin.kept(upgrades);
    let mut relay = Relay { answers, accepted: false };
    let mut upload = Kept::default();
    loop {
        let connected = match kept.take() {
            Some(connection) => Ok(connection),
            None => connect(origin, upgrades).await,
        };
        let connection = match connected {
            Ok(connection) => connection,
            Err(cause) if relay.accepted => return Served::Failed(no_answer(&cause)),
            Err(cause) => return Served::Unreachable(cause),
        };
        if confirm
            && !relay.accepted
            && let Err(failure) = relay.confirmed(frames).await
        {
            return Served::Failed(failure);
        }
        let reused = connection.is_reused();
        match exchange(head, frames, &mut upload, &mut relay, connection, origin, record).await {
            Ok(()) => return Served::Answered,
            Err(failure) if failure.unexecuted && reused && !upload.is_lost() => {}
            // A connection that was kept was closed meanwhile, and asking again changes nothing (RFC 9110 §9.2.1).
            Err(failure) if failure.told == Some(NoAnswer::Closed) && reused && is_repeatable(head) => {}
            Err(failure) => return Served::Failed(failure),
        }
    }
}

pub(super) async fn connect(origin: &Origin, upgrades: bool) -> Result<Connection, String> {
    match timeout(CONNECT, origin.connect(upgrades)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(cause)) => Err(match OriginFailure::of(&cause) {
            Some(why) => format!("connecting to {}: {why}", origin.address()),
            None => format!("connecting to {}: {cause}", origin.address()),
        }),
        Err(_) => Err(format!("connecting to {}: timed out", origin.address())),
    }
}

fn is_repeatable(head: &RequestHead) -> bool {
    head.body == Body::Empty && head.is_safe()
}

/// Carries one exchange to its end; a connection that is as it was before is kept.
async fn exchange(
    head: &RequestHead,
    frames: &mut TunnelReader,
    upload: &mut Kept,
    relay: &mut Relay<'_>,
    connection: Connection,
    origin: &Origin,
    record: &mut Record<'_>,
) -> Result<(), Failure> {
    let mut under_way = connection.request(head).await.map_err(|cut| not_taken(&cut))?;
    let (mut sink, mut app, response) = under_way.split(head);
    let upgrades = !head.upgrade.is_empty();
    let sent = Sent::default();
    let said = tokio::select! {
        biased;
        said = relay.down(&mut app, response, &sent, upgrades, record) => said?,
        failure = up(frames, upload, &mut sink, &sent, upgrades) => return Err(failure),
    };
    if said == Said::Upgraded {
        pipe(frames, sink, app, relay.answers).await;
    } else if sent.whole.load(Relaxed) && response.keep_alive {
        origin.keep(under_way);
    }
    Ok(())
}

/// How far the request has got. Both directions are one task's: this is only shared so that it may move between threads.
#[derive(Default)]
struct Sent {
    /// Nothing of it is left to be sent.
    over: AtomicBool,
    /// All of it was taken.
    whole: AtomicBool,
}

/// The request's body. Ends only with a failure.
async fn up(
    frames: &mut TunnelReader,
    upload: &mut Kept,
    sink: &mut Sink<'_>,
    sent: &Sent,
    upgrades: bool,
) -> Failure {
    if upgrades {
        // What follows is the other protocol's, once the app has agreed to it.
        if let Err(cut) = sink.flush().await {
            return no_answer(&cut);
        }
        sent.whole.store(true, Relaxed);
    } else {
        match send(upload, frames, sink).await {
            Ok(()) => sent.whole.store(true, Relaxed),
            Err(CopyError::Source(cut) | CopyError::Sink(cut @ Cut::Length(_))) => return cancelled(&cut),
            // It reads no further; what it answers still counts (RFC 9112 §9.5).
            Err(CopyError::Sink(_)) => {}
        }
    }
    sent.over.store(true, Relaxed);
    std::future::pending().await
}

/// What was kept of the body, and then the rest, which is kept where the app may say after all that it did not take the request.
async fn send(kept: &mut Kept, frames: &mut TunnelReader, sink: &mut Sink<'_>) -> Result<(), CopyError> {
    if kept.send(sink).await.map_err(CopyError::Sink)? {
        return Ok(());
    }
    // Nobody else says of a request that it had that it did not take it.
    let keep = matches!(sink, Sink::Http2(_));
    let seen = |piece: &Piece<'_>| kept.passes(piece, keep);
    copy_seen(&mut Source::Tunnel(frames), sink, IDLE, |_| false, seen).await.map(drop)
}

/// The relay as one exchange sees it.
struct Relay<'a> {
    answers: &'a mut frame::Writer<SendHalf>,
    /// It was told that the app has the request: once, however often the app is tried.
    accepted: bool,
}

impl Relay<'_> {
    /// The answer, up to its end or to a switch of protocols.
    async fn down(
        &mut self,
        app: &mut Answers<'_>,
        response: &mut ResponseHead,
        sent: &Sent,
        upgrades: bool,
        record: &mut Record<'_>,
    ) -> Result<Said, Failure> {
        let mut informed = 0;
        loop {
            let said = self.hear(app, response, sent).await?;
            // What the client says in its own name nobody else can.
            response.fields.strip_ours();
            match said {
                Said::Informed if informed < MOST_INFORMED => {
                    informed += 1;
                    self.answers.inform(response).map_err(bad_answer)?;
                    say(self.answers.flush()).await?;
                }
                Said::Upgraded if upgrades => {
                    self.answers.upgraded(response).map_err(bad_answer)?;
                    say(self.answers.flush()).await?;
                    record.answered(response.status);
                    return Ok(said);
                }
                Said::Answered => {
                    self.answers.response(response).map_err(bad_answer)?;
                    record.answered(response.status);
                    let mut body = app.body().map_err(|cut| no_answer(&cut))?;
                    return match copy(&mut body, &mut Sink::Tunnel(self.answers), IDLE).await {
                        Ok(_) => Ok(said),
                        Err(CopyError::Source(cut)) => Err(cut_short(&cut)),
                        Err(CopyError::Sink(cut)) => Err(cancelled(&cut)),
                    };
                }
                Said::Informed => {
                    return Err(bad_answer("more informational responses than anybody needs"));
                }
                Said::Upgraded => return Err(bad_answer("an upgrade that nobody asked for")),
                Said::Accepted | Said::Refused(_) | Said::Failed(_) => return Err(bad_answer("a frame")),
            }
        }
    }

    /// Says that the app is there, and waits until the request is ours alone. If that fails the app must never have it.
    async fn confirmed(&mut self, frames: &mut TunnelReader) -> Result<(), Failure> {
        self.accept().await?;
        let confirming = async {
            loop {
                match frames.frames.frame()? {
                    Some(Frame::Confirmed) => return Ok(()),
                    Some(_) => return Err(Cut::Misplaced),
                    None => {}
                }
                if frames.frames.fill().await? == 0 {
                    return Err(Cut::Ended);
                }
            }
        };
        match timeout(RELAY, confirming).await {
            Ok(confirmed) => confirmed.map_err(|cut| cancelled(&cut)),
            Err(_) => Err(cancelled(&Cut::Stalled(RELAY))),
        }
    }

    async fn accept(&mut self) -> Result<(), Failure> {
        self.accepted = true;
        self.answers.accepted().map_err(|cause| cancelled(&cause.into()))?;
        say(self.answers.flush()).await
    }

    /// Waits for the app's next head. Once the whole request was handed over and it still thinks, the relay is told that it
    /// has it.
    async fn hear(
        &mut self,
        app: &mut Answers<'_>,
        response: &mut ResponseHead,
        sent: &Sent,
    ) -> Result<Said, Failure> {
        loop {
            let silence = match (self.accepted, sent.over.load(Relaxed)) {
                (true, _) => SILENCE,
                (false, true) => ACCEPT,
                (false, false) => Duration::ZERO,
            };
            let heard = tokio::select! {
                biased;
                heard = timeout(silence, app.next(response)) => heard,
                () = self.answers.get_ref().stopped() => return Err(cancelled(&Cut::Ended)),
            };
            match heard {
                Ok(Ok(said)) => {
                    self.accepted = true;
                    return Ok(said);
                }
                // The relay has been told nothing by that: the next try may have to.
                Ok(Err(cut)) => return Err(not_a_head(cut)),
                Err(_) if self.accepted => return Err(no_answer(&Cut::Stalled(SILENCE))),
                Err(_) => self.accept().await?,
            }
        }
    }
}

/// After a 101: bytes both ways. One direction's clean end leaves the other open; a cut in one is a cut in both.
async fn pipe(
    frames: &mut TunnelReader,
    mut sink: Sink<'_>,
    mut app: Answers<'_>,
    answers: &mut frame::Writer<SendHalf>,
) {
    sink.upgrade();
    app.upgrade();
    let piped = tokio::try_join!(async { copy(&mut Source::Tunnel(frames), &mut sink, IDLE).await }, async {
        copy(&mut app.body().map_err(CopyError::Source)?, &mut Sink::Tunnel(answers), IDLE).await
    },);
    if piped.is_err() {
        sink.abort();
    }
}

async fn say(step: impl Future<Output = std::io::Result<()>>) -> Result<(), Failure> {
    match timeout(RELAY, step).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => Err(cancelled(&cause.into())),
        Err(_) => Err(cancelled(&Cut::Stalled(RELAY))),
    }
}
