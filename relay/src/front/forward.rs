//! Both directions of one exchange at once: the rest of the request's body goes on while the answer comes back.
//! Who the other side is, and what may be tried again, is decided in [`upstream`] and [`tunnel`].

pub(crate) mod tunnel;
pub(crate) mod upstream;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use culvert_protocol::body::{CopyError, Cut, Sink, Source, TunnelReader, copy};
use culvert_protocol::frame::{Frame, Refusal};
use culvert_protocol::http1::{self, ReadError};
use culvert_protocol::message::{RequestHead, ResponseHead};
use culvert_protocol::socket::ReadHalf;
use culvert_protocol::{body, head};

use crate::config::Limits;
use crate::failure::{Behind, Failure};
use crate::front::caller::{Caller, caller_cut};
use crate::front::record::Exchange;

/// What became of a request that was given to a developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    Answered,
    /// Provably nobody has executed it, and nobody will: it may be sent elsewhere.
    Unexecuted,
}

/// Whoever got the request: where its body goes, and where the answer comes from.
#[derive(Debug)]
pub(crate) struct Backend<'a> {
    pub(crate) behind: Behind,
    pub(crate) sink: Sink<'a>,
    pub(crate) answers: Answers<'a>,
    /// How long the answer's head may take once the whole request was sent.
    pub(crate) patience: Duration,
}

#[derive(Debug)]
pub(crate) enum Answers<'a> {
    Http1 { reader: &'a mut http1::Reader<ReadHalf>, method: &'a [u8] },
    Tunnel(&'a mut TunnelReader),
}

/// What a backend says before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Accepted,
    Refused(Refusal),
    /// A 1xx head.
    Informed,
    /// A final head.
    Answered,
    /// A 101 head.
    Upgraded,
}

/// What a carried exchange left behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    /// The whole request was sent and the whole answer received: the connection is as it was before.
    pub(crate) whole: bool,
}

/// Carries an exchange to its end. `response` holds the head that `first` speaks of, if anything was said already.
pub(crate) async fn carry(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    backend: &mut Backend<'_>,
    response: &mut ResponseHead,
    mut first: Option<Said>,
    limits: &Limits,
    exchange: &mut Exchange<'_>,
) -> Result<Carried, Failure> {
    let (up_idle, down_idle) = Caller::idle(limits);
    let behind = backend.behind;
    let upgrades = !request.upgrade.is_empty();
    // Both directions are one task's; the atomics only let it move between threads.
    let sent = AtomicBool::new(caller.upload.is_whole() || upgrades);
    let taken = AtomicBool::new(true);
    let uploaded = AtomicU64::new(caller.upload.kept());
    let (upload, answer, timer) = (&mut caller.upload, &mut caller.answer, &mut *caller.timer);
    let (sink, answers) = (&mut backend.sink, &mut backend.answers);

    let up = async {
        if !sent.load(Relaxed) {
            match copy(&mut upload.source, sink, up_idle).await {
                Ok(moved) => _ = uploaded.fetch_add(moved, Relaxed),
                Err(CopyError::Source(cut)) => return caller_cut(cut),
                // It reads no further; what it answers still counts (RFC 9112 §9.5).
                Err(CopyError::Sink(_)) => taken.store(false, Relaxed),
            }
            sent.store(true, Relaxed);
        }
        upload.hung_up().await;
        Failure::CallerGone
    };
    let down = async {
        loop {
            let said = match first.take() {
                Some(said) => said,
                None => {
                    match timer.within(backend.patience, heard(answers.next(response), answer.gone())).await {
                        Ok(None) => return Err(Failure::CallerGone),
                        Ok(Some(said)) => said.map_err(|cut| no_answer(behind, cut))?,
                        Err(_) if sent.load(Relaxed) => return Err(Failure::AnswerTimeout(behind)),
                        Err(_) => continue,
                    }
                }
            };
            match said {
                Said::Accepted => {}
                Said::Refused(_) => {
                    return Err(Failure::BadAnswer(behind, "a refusal after it had accepted".into()));
                }
                Said::Informed => answer.inform(response).await.map_err(caller_lost)?,
                Said::Upgraded if upgrades => {
                    answer.head(response).map_err(caller_lost)?;
                    return Ok((Said::Upgraded, 0));
                }
                Said::Upgraded => {
                    return Err(Failure::BadAnswer(behind, "an upgrade that nobody asked for".into()));
                }
                Said::Answered => {
                    answer.head(response).map_err(caller_lost)?;
                    let mut sink = answer.sink().map_err(caller_lost)?;
                    let moved =
                        copy(&mut answers.body(), &mut sink, down_idle).await.map_err(|cut| match cut {
                            CopyError::Source(cut) => Failure::AnswerCut(behind, cut.to_string()),
                            CopyError::Sink(cut @ Cut::Write(http1::connection::WriteError::Length(_))) => {
                                Failure::AnswerCut(behind, cut.to_string())
                            }
                            CopyError::Sink(cut) => caller_lost(cut),
                        })?;
                    return Ok((Said::Answered, moved));
                }
            }
        }
    };
    let done = tokio::select! {
        biased;
        done = down => done,
        failure = up => Err(failure),
    };
    exchange.moved(uploaded.into_inner(), 0);
    let (said, moved) = done?;
    exchange.answered(response.status);
    exchange.moved(0, moved);
    if said == Said::Upgraded {
        pipe(caller, backend, limits, exchange).await;
        return Ok(Carried { whole: false });
    }
    Ok(Carried { whole: taken.load(Relaxed) && sent.load(Relaxed) && response.keep_alive })
}

/// What `step` comes to, unless the caller is gone before.
async fn heard<T>(step: impl Future<Output = T>, gone: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        biased;
        done = step => Some(done),
        () = gone => None,
    }
}

/// After a 101: bytes both ways, each half closed on its own.
async fn pipe(
    caller: &mut Caller<'_>,
    backend: &mut Backend<'_>,
    limits: &Limits,
    exchange: &mut Exchange<'_>,
) {
    let idle = body::Idle { source: limits.response_idle, sink: limits.write_idle };
    if let Source::Http1(reader) = &mut caller.upload.source {
        reader.upgrade();
    }
    caller.answer.upgrade();
    if let Sink::Http1(writer) = &mut backend.sink {
        writer.upgrade();
    }
    if let Answers::Http1 { reader, .. } = &mut backend.answers {
        reader.upgrade();
    }
    let (up, down) = tokio::join!(copy(&mut caller.upload.source, &mut backend.sink, idle), async {
        let mut sink = caller.answer.sink().map_err(CopyError::Sink)?;
        copy(&mut backend.answers.body(), &mut sink, idle).await
    });
    exchange.moved(up.unwrap_or_default(), down.unwrap_or_default());
}

impl Answers<'_> {
    /// Waits for the next thing said before a body; a head is put in `response`. Nothing is lost if this is dropped.
    pub(crate) async fn next(&mut self, response: &mut ResponseHead) -> Result<Said, Cut> {
        match self {
            Self::Http1 { reader, method } => {
                while !reader.response(method, response)? {
                    reader.fill().await?;
                }
                Ok(match response.status {
                    101 => Said::Upgraded,
                    100..=199 => Said::Informed,
                    _ => Said::Answered,
                })
            }
            Self::Tunnel(reader) => loop {
                let Some(frame) = reader.frames.frame()? else {
                    if reader.frames.fill().await? == 0 {
                        return Err(Cut::Ended);
                    }
                    continue;
                };
                return Ok(match frame {
                    Frame::Accepted => Said::Accepted,
                    Frame::Refused(why, _) => Said::Refused(why),
                    Frame::Inform(payload) => {
                        head::decode_inform(payload, response)?;
                        Said::Informed
                    }
                    Frame::Upgraded(payload) => {
                        head::decode_upgraded(payload, response)?;
                        Said::Upgraded
                    }
                    Frame::Head(payload) => {
                        head::decode_response(payload, response)?;
                        Said::Answered
                    }
                    Frame::Data(_) | Frame::End(_) => return Err(Cut::Misplaced),
                });
            },
        }
    }

    pub(crate) fn body(&mut self) -> Source<'_> {
        match self {
            Self::Http1 { reader, .. } => Source::Http1(reader),
            Self::Tunnel(reader) => Source::Tunnel(reader),
        }
    }
}

pub(crate) fn no_answer(behind: Behind, cut: Cut) -> Failure {
    match cut {
        Cut::Read(ReadError::Cut) => Failure::NoAnswer(behind, "it ended".into()),
        Cut::Read(ReadError::Refused(refusal)) => Failure::BadAnswer(behind, refusal.to_string()),
        Cut::Wire(_) | Cut::Misplaced => Failure::BadAnswer(behind, cut.to_string()),
        cut => Failure::NoAnswer(behind, cut.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn caller_lost(cut: Cut) -> Failure {
    match cut {
        Cut::Stalled(_) => Failure::CallerStalled(cut.to_string()),
        _ => Failure::CallerGone,
    }
}
