//! Both directions of one exchange at once: the rest of the request's body goes on while the answer comes back.
//! Who the other side is, and what may be tried again, is decided in [`upstream`] and [`tunnel`].

pub(crate) mod tunnel;
pub(crate) mod upstream;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::body::{self, CopyError, Cut, Sink, Source, copy};
use culvert_protocol::http1::ReadError;
use culvert_protocol::message::{RequestHead, ResponseHead};

use crate::config::Limits;
use crate::failure::{Behind, Failure};
use crate::front::caller::{Caller, caller_cut};
use crate::front::manners;
use crate::front::record::Exchange;

/// 1xx responses before a final one: a 100, some 102 and 103.
const MOST_INFORMED: usize = 16;

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
    /// Its responses are told to have passed us.
    pub(crate) via: bool,
}

/// Carries an exchange to its end. `response` holds the head that `first` speaks of, if anything was said already.
/// Returns whether the whole request was sent and the whole answer received, so that the connection is as it was before.
pub(crate) async fn carry(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    backend: &mut Backend<'_>,
    response: &mut ResponseHead,
    mut first: Option<Said>,
    limits: &Limits,
    exchange: &mut Exchange<'_>,
) -> Result<bool, Failure> {
    let (up_idle, down_idle) = Caller::idle(limits);
    let behind = backend.behind;
    let upgrades = !request.upgrade.is_empty();
    // Both directions are one task's; the atomics only let it move between threads.
    let sent = AtomicBool::new(caller.upload.is_whole() || upgrades);
    let taken = AtomicBool::new(true);
    let uploaded = AtomicU64::new(caller.upload.kept());
    let Caller { upload, answer, timer, route, .. } = &mut *caller;
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
        let mut informed = 0;
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
                Said::Informed if informed == MOST_INFORMED => {
                    return Err(Failure::BadAnswer(
                        behind,
                        "more informational responses than anybody needs".into(),
                    ));
                }
                Said::Informed => {
                    informed += 1;
                    answer.inform(response).await.map_err(caller_lost)?;
                }
                Said::Upgraded if upgrades => {
                    manners::dress(response, route.as_deref(), backend.via);
                    answer.head(response).map_err(caller_lost)?;
                    return Ok((Said::Upgraded, 0));
                }
                Said::Upgraded => {
                    return Err(Failure::BadAnswer(behind, "an upgrade that nobody asked for".into()));
                }
                Said::Answered => {
                    manners::dress(response, route.as_deref(), backend.via);
                    answer.head(response).map_err(caller_lost)?;
                    let mut sink = answer.sink().map_err(caller_lost)?;
                    let mut source = answers.body().map_err(|cut| no_answer(behind, cut))?;
                    let moved = copy(&mut source, &mut sink, down_idle).await.map_err(|cut| match cut {
                        CopyError::Source(cut) => Failure::AnswerCut(behind, cut.to_string()),
                        CopyError::Sink(cut @ Cut::Length(_)) => Failure::AnswerCut(behind, cut.to_string()),
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
        return Ok(false);
    }
    Ok(taken.load(Relaxed) && sent.load(Relaxed) && response.keep_alive)
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
    backend.sink.upgrade();
    backend.answers.upgrade();
    let (up, down) = tokio::join!(copy(&mut caller.upload.source, &mut backend.sink, idle), async {
        let mut sink = caller.answer.sink().map_err(CopyError::Sink)?;
        let mut source = backend.answers.body().map_err(CopyError::Source)?;
        copy(&mut source, &mut sink, idle).await
    });
    exchange.moved(up.unwrap_or_default(), down.unwrap_or_default());
}

/// Nothing of the request was executed: it did not get as far.
pub(crate) fn not_taken(behind: Behind, cut: &Cut) -> Failure {
    Failure::NotTaken(behind, cut.to_string())
}

pub(crate) fn no_answer(behind: Behind, cut: Cut) -> Failure {
    match cut {
        cut if cut.is_unexecuted() => not_taken(behind, &cut),
        Cut::Read(ReadError::Cut) => Failure::NoAnswer(behind, "it ended".into()),
        Cut::Read(ReadError::Refused(refusal)) => Failure::BadAnswer(behind, refusal.to_string()),
        Cut::Wire(_) | Cut::Misplaced | Cut::Malformed(_) => Failure::BadAnswer(behind, cut.to_string()),
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
