//! One exchange with the app: the head as it came, both bodies at once, and what is said when the app does not play along.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use culvert_certs::tls::OriginFailure;
use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::body::{CopyError, Cut, Idle, Sink, Source, TunnelReader, copy};
use culvert_protocol::frame;
use culvert_protocol::http1::ReadError;
use culvert_protocol::message::{Body, Fields, RequestHead, ResponseHead};
use culvert_protocol::origin::{Connection, Origin};
use culvert_protocol::tunnel::SendHalf;
use tokio::time::timeout;

use super::SAY;
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

/// Why there is no answer of the app's.
pub(super) struct Failure {
    label: &'static str,
    public: &'static str,
    cause: String,
    /// Something of an answer was said: no other one can be.
    committed: bool,
}

pub(super) async fn serve(
    head: &RequestHead,
    frames: &mut TunnelReader,
    answers: &mut frame::Writer<SendHalf>,
    origin: &Origin,
    record: &mut Record<'_>,
) -> Served {
    let upgrades = !head.upgrade.is_empty();
    let mut kept = origin.kept(upgrades);
    // The relay is told once, however often it is tried.
    let mut accepted = false;
    loop {
        let connected = match kept.take() {
            Some(connection) => Ok(connection),
            None => connect(origin, upgrades).await,
        };
        let connection = match connected {
            Ok(connection) => connection,
            Err(cause) if accepted => return Served::Failed(no_answer(&cause)),
            Err(cause) => return Served::Unreachable(cause),
        };
        let reused = connection.is_reused();
        match exchange(head, frames, answers, connection, origin, record, &mut accepted).await {
            Ok(()) => return Served::Answered,
            // A connection that was kept was closed meanwhile, and asking again changes nothing (RFC 9110 §9.2.1).
            Err(failure) if failure.label == NO_ANSWER && reused && is_repeatable(head) => {
                origin.forget_shared()
            }
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
    answers: &mut frame::Writer<SendHalf>,
    connection: Connection,
    origin: &Origin,
    record: &mut Record<'_>,
    accepted: &mut bool,
) -> Result<(), Failure> {
    let mut under_way = connection.request(head).await.map_err(|cut| no_answer(&cut))?;
    let (mut sink, mut app, response) = under_way.split(head);
    let upgrades = !head.upgrade.is_empty();
    let (sent, taken) = (AtomicBool::new(false), AtomicBool::new(true));

    let up = async {
        if upgrades {
            if let Err(cut) = sink.flush().await {
                return no_answer(&cut);
            }
        } else {
            match copy(&mut Source::Tunnel(frames), &mut sink, IDLE).await {
                Ok(_) => {}
                Err(CopyError::Source(cut)) => return cancelled(&cut),
                // It reads no further; what it answers still counts (RFC 9112 §9.5).
                Err(CopyError::Sink(_)) => taken.store(false, Relaxed),
            }
        }
        sent.store(true, Relaxed);
        std::future::pending().await
    };
    let down = async {
        loop {
            match hear(&mut app, response, answers, accepted, &sent).await? {
                Said::Upgraded if upgrades => {
                    answers.upgraded(response).map_err(bad_answer)?;
                    return say(answers.flush()).await;
                }
                Said::Informed => {
                    answers.inform(response).map_err(bad_answer)?;
                    say(answers.flush()).await?;
                }
                Said::Answered => {
                    answers.response(response).map_err(bad_answer)?;
                    record.answered(response.status);
                    let mut body = app.body().map_err(|cut| no_answer(&cut))?;
                    return match copy(&mut body, &mut Sink::Tunnel(answers), IDLE).await {
                        Ok(_) => Ok(()),
                        Err(CopyError::Source(cut)) => Err(cut_short(&cut)),
                        Err(CopyError::Sink(cut)) => Err(cancelled(&cut)),
                    };
                }
                Said::Upgraded => return Err(bad_answer("an upgrade that nobody asked for")),
                Said::Accepted | Said::Refused(_) => return Err(bad_answer("a frame")),
            }
        }
    };
    tokio::select! {
        biased;
        done = down => done?,
        failure = up => return Err(failure),
    }
    if response.status == 101 {
        record.answered(101);
        sink.upgrade();
        app.upgrade();
        // One direction's clean end leaves the other open; a cut in one is a cut in both.
        let piped =
            tokio::try_join!(async { copy(&mut Source::Tunnel(frames), &mut sink, IDLE).await }, async {
                copy(&mut app.body().map_err(CopyError::Source)?, &mut Sink::Tunnel(answers), IDLE).await
            },);
        if piped.is_err() {
            sink.abort();
        }
    } else if sent.load(Relaxed) && taken.load(Relaxed) && response.keep_alive {
        origin.keep(under_way);
    }
    Ok(())
}

/// Waits for the app's next head. Once the whole request was handed over and it still thinks, the relay is told that it
/// has it.
async fn hear(
    app: &mut Answers<'_>,
    response: &mut ResponseHead,
    answers: &mut frame::Writer<SendHalf>,
    accepted: &mut bool,
    sent: &AtomicBool,
) -> Result<Said, Failure> {
    loop {
        let silence = match (*accepted, sent.load(Relaxed)) {
            (true, _) => SILENCE,
            (false, true) => ACCEPT,
            (false, false) => Duration::ZERO,
        };
        let heard = tokio::select! {
            biased;
            heard = timeout(silence, app.next(response)) => heard,
            () = answers.get_ref().stopped() => return Err(cancelled(&Cut::Ended)),
        };
        match heard {
            Ok(said) => {
                *accepted = true;
                return said.map_err(|cut| match cut {
                    Cut::Read(ReadError::Refused(refusal)) => bad_answer(refusal),
                    Cut::Malformed(malformed) => bad_answer(malformed),
                    cut => no_answer(&cut),
                });
            }
            Err(_) if *accepted => return Err(no_answer(&Cut::Stalled(SILENCE))),
            Err(_) => {
                *accepted = true;
                answers.accepted().map_err(|cause| cancelled(&cause.into()))?;
                say(answers.flush()).await?;
            }
        }
    }
}

async fn say(step: impl Future<Output = std::io::Result<()>>) -> Result<(), Failure> {
    match timeout(SAY, step).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => Err(cancelled(&cause.into())),
        Err(_) => Err(cancelled(&Cut::Stalled(SAY))),
    }
}

const NO_ANSWER: &str = "app_no_answer";

fn no_answer(cause: &impl fmt::Display) -> Failure {
    let cause = cause.to_string();
    Failure {
        label: NO_ANSWER,
        public: "the app closed the connection before it answered",
        cause,
        committed: false,
    }
}

fn bad_answer(cause: impl fmt::Display) -> Failure {
    let cause = format!("not an answer: {cause}");
    Failure { label: "app_bad_answer", public: "the app's answer is not valid HTTP", cause, committed: false }
}

fn cut_short(cut: &Cut) -> Failure {
    let cause = cut.to_string();
    Failure {
        label: "app_cut",
        public: "the app stopped in the middle of its answer",
        cause,
        committed: true,
    }
}

/// The relay takes no answer any more: the caller is gone, or the tunnel.
fn cancelled(cut: &Cut) -> Failure {
    Failure { label: "cancelled", public: "", cause: format!("cancelled: {cut}"), committed: true }
}

impl Failure {
    /// Answers in the client's name, if nothing was answered yet; else leaves the stream to be reset.
    pub(super) async fn answer(&self, answers: &mut frame::Writer<SendHalf>, record: &mut Record<'_>) {
        record.failed(&self.cause);
        if self.committed {
            return;
        }
        let body =
            format!("{{\"failure\":\"{}\",\"side\":\"app\",\"message\":\"{}\"}}\n", self.label, self.public);
        let mut fields = Fields::default();
        fields.push(b"content-type", b"application/json");
        fields.push(b"content-length", body.len().to_string().as_bytes());
        fields.push(b"culvert-failure", self.label.as_bytes());
        let head = ResponseHead {
            status: 502,
            fields,
            body: Body::Exact(body.len() as u64),
            ..ResponseHead::default()
        };
        let said = async {
            answers.response(&head).map_err(std::io::Error::other)?;
            answers.data(body.as_bytes()).await?;
            answers.end(None).map_err(std::io::Error::other)?;
            answers.finish().await
        };
        // Nobody is left to tell if this fails.
        let _ = timeout(SAY, said).await;
    }
}
