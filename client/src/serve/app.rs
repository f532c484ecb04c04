//! One exchange with the app: the head as it came, both bodies at once, and what is said when the app does not play along.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use culvert_protocol::body::{CopyError, Cut, Idle, Sink, Source, TunnelReader, copy};
use culvert_protocol::frame;
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
    let mut kept = origin.kept();
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match timeout(CONNECT, origin.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(cause)) => {
                    return Served::Unreachable(format!("connecting to {}: {cause}", origin.address()));
                }
                Err(_) => {
                    return Served::Unreachable(format!("connecting to {}: timed out", origin.address()));
                }
            },
        };
        match exchange(head, frames, answers, &mut connection, record).await {
            Ok(whole) => {
                if whole {
                    origin.keep(connection);
                }
                return Served::Answered;
            }
            // A connection that was kept was closed meanwhile, and asking again changes nothing (RFC 9110 §9.2.1).
            Err(failure) if failure.label == NO_ANSWER && connection.is_reused() && is_repeatable(head) => {}
            Err(failure) => return Served::Failed(failure),
        }
    }
}

fn is_repeatable(head: &RequestHead) -> bool {
    head.body == Body::Empty && (head.is("GET") || head.is("HEAD") || head.is("OPTIONS"))
}

/// Carries one exchange to its end. Returns whether the connection is as it was before.
async fn exchange(
    head: &RequestHead,
    frames: &mut TunnelReader,
    answers: &mut frame::Writer<SendHalf>,
    connection: &mut Connection,
    record: &mut Record<'_>,
) -> Result<bool, Failure> {
    let Connection { reader, writer, response, .. } = connection;
    writer.request(head);
    let upgrades = !head.upgrade.is_empty();
    let (sent, taken) = (AtomicBool::new(false), AtomicBool::new(true));

    let up = async {
        if upgrades {
            if let Err(cause) = writer.flush().await {
                return no_answer(cause.to_string());
            }
        } else {
            match copy(&mut Source::Tunnel(frames), &mut Sink::Http1(writer), IDLE).await {
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
        let mut accepted = false;
        loop {
            while !reader.response(&head.method, response).map_err(|cause| no_answer(cause.to_string()))? {
                let silence = if accepted {
                    SILENCE
                } else if sent.load(Relaxed) {
                    ACCEPT
                } else {
                    Duration::ZERO
                };
                let filled = tokio::select! {
                    biased;
                    filled = timeout(silence, reader.fill()) => filled,
                    () = answers.get_ref().stopped() => return Err(cancelled(&Cut::Ended)),
                };
                match filled {
                    Ok(filled) => {
                        filled.map_err(|cause| no_answer(cause.to_string()))?;
                    }
                    Err(_) if accepted => return Err(no_answer("it said nothing for an hour".to_owned())),
                    Err(_) => {
                        accepted = true;
                        answers.accepted().map_err(|cause| cancelled(&cause.into()))?;
                        say(answers.flush()).await?;
                    }
                }
            }
            accepted = true;
            match response.status {
                101 if upgrades => {
                    answers.upgraded(response).map_err(|cause| bad_answer(cause.to_string()))?;
                    say(answers.flush()).await?;
                    return Ok(());
                }
                101 => return Err(bad_answer("an upgrade that nobody asked for".to_owned())),
                100..=199 => {
                    answers.inform(response).map_err(|cause| bad_answer(cause.to_string()))?;
                    say(answers.flush()).await?;
                }
                status => {
                    answers.response(response).map_err(|cause| bad_answer(cause.to_string()))?;
                    record.answered(status);
                    let copied = copy(&mut Source::Http1(reader), &mut Sink::Tunnel(answers), IDLE).await;
                    copied.map_err(|cut| match cut {
                        CopyError::Source(cut) => cut_short(cut.to_string()),
                        CopyError::Sink(cut) => cancelled(&cut),
                    })?;
                    return Ok(());
                }
            }
        }
    };
    let done = tokio::select! {
        biased;
        done = down => done,
        failure = up => Err(failure),
    };
    done?;
    if response.status == 101 {
        record.answered(101);
        writer.upgrade();
        reader.upgrade();
        // Each half closes on its own; whoever cuts one short is seen by the other side as having done so.
        let _ = tokio::join!(
            async { copy(&mut Source::Tunnel(frames), &mut Sink::Http1(writer), IDLE).await },
            async { copy(&mut Source::Http1(reader), &mut Sink::Tunnel(answers), IDLE).await },
        );
        return Ok(false);
    }
    Ok(sent.load(Relaxed) && taken.load(Relaxed) && response.keep_alive)
}

async fn say(step: impl Future<Output = std::io::Result<()>>) -> Result<(), Failure> {
    match timeout(SAY, step).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => Err(cancelled(&cause.into())),
        Err(_) => Err(cancelled(&Cut::Stalled(SAY))),
    }
}

const NO_ANSWER: &str = "app_no_answer";

fn no_answer(cause: String) -> Failure {
    Failure {
        label: NO_ANSWER,
        public: "the app closed the connection before it answered",
        cause,
        committed: false,
    }
}

fn bad_answer(cause: String) -> Failure {
    Failure { label: "app_bad_answer", public: "the app's answer is not valid HTTP", cause, committed: false }
}

fn cut_short(cause: String) -> Failure {
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
