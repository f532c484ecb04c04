//! Both directions of one exchange at once: the rest of the request's body goes on while the answer comes back.
//! Who the other side is, and what may be tried again, is decided in [`upstream`] and [`tunnel`].

pub(crate) mod tunnel;
pub(crate) mod upstream;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use culvert_protocol::answers::{Answers, MOST_INFORMED, Said};
use culvert_protocol::body::{CopyError, Cut, Idle, Piece, Sink, Source, copy_seen};
use culvert_protocol::frame::Refusal;
use culvert_protocol::http1::ReadError;
use culvert_protocol::message::{RequestHead, ResponseHead};
use culvert_protocol::timer::Timer;
use tokio::time::Instant;

use crate::config::Limits;
use crate::failure::{Behind, Failure};
use crate::front::caller::{Answer, Caller, Upload, caller_cut};
use crate::front::manners;
use crate::front::record::Exchange;
use crate::service::Service;
use crate::tunnels::session::Carried;

/// What became of a request that was given to a developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    Answered,
    /// It may be sent elsewhere: provably nobody has executed it and nobody will, or twice is the same as once.
    Unexecuted(Why),
}

/// Why a developer did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The client said so.
    Refused(Refusal),
    /// The tunnel takes no more streams.
    Full,
    /// The stream was cut, with its tunnel or alone.
    Cut,
    /// The tunnel is in doubt.
    Silent,
    /// The tunnel is there, and nothing was said of this request.
    Late,
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
    /// It takes nothing more; it may have answered before it stopped.
    pub(crate) broken: bool,
    /// What is counted of it down a tunnel.
    pub(crate) carried: Option<&'a Carried>,
}

/// Carries an exchange to its end. `response` holds the head that `first` speaks of, if anything was said already.
/// Returns whether the whole request was sent and the whole answer received, so that the connection is as it was before.
pub(crate) async fn carry(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    backend: &mut Backend<'_>,
    response: &mut ResponseHead,
    first: Option<Said>,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<bool, Failure> {
    let limits = &service.limits;
    let upgrades = !request.upgrade.is_empty();
    let sent = Sent::default();
    if caller.upload.is_whole() || upgrades || backend.broken {
        sent.is_over(!backend.broken);
    }
    exchange.moved(caller.upload.kept(), 0);
    let Caller { upload, answer, timer, route, .. } = &mut *caller;
    let Backend { behind, sink, answers, patience, via, carried, .. } = &mut *backend;
    let carried = *carried;
    let down = Down {
        behind: *behind,
        patience: *patience,
        upgrades,
        route: route.as_deref(),
        via: *via,
        sent: &sent,
        limits,
        carried,
    };
    let done = tokio::select! {
        biased;
        done = down.run(answers, answer, timer, response, first, exchange) => done,
        failure = up(upload, sink, &sent, (*behind, carried), service) => Err(failure),
    };
    exchange.moved(sent.bytes.load(Relaxed), 0);
    if done? == Said::Upgraded {
        pipe(caller, backend, limits, exchange).await;
        return Ok(false);
    }
    Ok(sent.taken.load(Relaxed) && sent.at.get().is_some() && response.keep_alive)
}

/// How far the request has got. Both directions are one task's: this is only shared so that it may move between threads.
#[derive(Default)]
struct Sent {
    /// When nothing of the request was left to be sent.
    at: OnceLock<Instant>,
    /// All of it was taken.
    taken: AtomicBool,
    bytes: AtomicU64,
}

impl Sent {
    fn is_over(&self, taken: bool) {
        self.taken.store(taken, Relaxed);
        // The first moment counts.
        let _ = self.at.set(Instant::now());
    }
}

/// The rest of the request's body, and then the caller's patience. Ends only with a failure.
async fn up(
    upload: &mut Upload<'_>,
    sink: &mut Sink<'_>,
    sent: &Sent,
    (behind, carried): (Behind, Option<&Carried>),
    service: &Service,
) -> Failure {
    if sent.at.get().is_none() {
        // Who takes an upload may pause as long as who answers may.
        let idle = Idle { source: service.limits.body_idle, sink: service.limits.response_idle };
        // Only what speaks HTTP/2 says of a request that it had that it did not take it.
        let keep = matches!(sink, Sink::Http2(_));
        let (source, kept) = upload.keeping();
        let seen = |piece: &Piece<'_>| {
            kept.passes(piece, keep);
            count(carried, Carried::sent, piece);
        };
        match copy_seen(source, sink, idle, |name| service.steers(name), seen).await {
            Ok(moved) => {
                sent.bytes.store(moved, Relaxed);
                sent.is_over(true);
            }
            Err(CopyError::Source(cut) | CopyError::Sink(cut @ Cut::Length(_))) => return caller_cut(cut),
            Err(CopyError::Sink(Cut::Stalled(_))) => return Failure::AnswerTimeout(behind),
            // It reads no further; what it answers still counts (RFC 9112 §9.5).
            Err(CopyError::Sink(_)) => sent.is_over(false),
        }
    }
    upload.hung_up().await;
    Failure::CallerGone
}

/// The answer on its way down.
struct Down<'a> {
    behind: Behind,
    patience: Duration,
    upgrades: bool,
    route: Option<&'a str>,
    via: bool,
    sent: &'a Sent,
    limits: &'a Limits,
    carried: Option<&'a Carried>,
}

impl Down<'_> {
    async fn run(
        &self,
        answers: &mut Answers<'_>,
        answer: &mut Answer<'_>,
        timer: &mut Timer,
        response: &mut ResponseHead,
        mut first: Option<Said>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Said, Failure> {
        let bad = |what: &str| Failure::BadAnswer(self.behind, what.to_owned());
        let mut informed = 0;
        loop {
            let said = match first.take() {
                Some(said) => said,
                None => self.hear(answers, answer, timer, response).await?,
            };
            if let Some(carried) = self.carried {
                carried.received(0);
            }
            match said {
                Said::Accepted => {}
                Said::Informed if informed < MOST_INFORMED => {
                    informed += 1;
                    response.fields.strip_ours();
                    answer.inform(response).await.map_err(caller_lost)?;
                }
                Said::Upgraded if self.upgrades => {
                    response.fields.strip_ours();
                    manners::dress(response, self.route, self.via);
                    answer.head(response).map_err(caller_lost)?;
                    exchange.answered(response.status);
                    return Ok(said);
                }
                // To an HTTP/2 caller, any success would be the agreement that this one is not (RFC 8441 §4).
                Said::Answered if self.upgrades && answer.is_http2() && response.status < 300 => {
                    return Err(Failure::NoUpgrade(self.behind));
                }
                Said::Answered => {
                    response.fields.strip_ours();
                    manners::dress(response, self.route, self.via);
                    if self.sent.at.get().is_none() {
                        answer.is_last();
                    }
                    answer.head(response).map_err(caller_lost)?;
                    exchange.answered(response.status);
                    exchange.moved(0, self.body(answers, answer).await?);
                    return Ok(said);
                }
                Said::Failed(why) => return Err(Failure::App(why)),
                Said::Informed => return Err(bad("more informational responses than anybody needs")),
                Said::Upgraded => return Err(bad("an upgrade that nobody asked for")),
                Said::Refused(_) => return Err(bad("a refusal after it had accepted")),
            }
        }
    }

    /// The next head, in its time, which is counted from when the whole request was sent.
    async fn hear(
        &self,
        answers: &mut Answers<'_>,
        answer: &mut Answer<'_>,
        timer: &mut Timer,
        response: &mut ResponseHead,
    ) -> Result<Said, Failure> {
        loop {
            let deadline = self.sent.at.get().copied().unwrap_or_else(Instant::now) + self.patience;
            match timer.until(deadline, heard(answers.next(response), answer.gone())).await {
                Ok(None) => return Err(Failure::CallerGone),
                Ok(Some(said)) => return said.map_err(|cut| no_answer(self.behind, cut)),
                Err(_) if self.sent.at.get().is_some_and(|at| at.elapsed() >= self.patience) => {
                    return Err(Failure::AnswerTimeout(self.behind));
                }
                Err(_) => {}
            }
        }
    }

    async fn body(&self, answers: &mut Answers<'_>, answer: &mut Answer<'_>) -> Result<u64, Failure> {
        let idle = Idle { source: self.limits.response_idle, sink: self.limits.write_idle };
        let mut sink = answer.sink().map_err(caller_lost)?;
        let mut source = answers.body().map_err(|cut| no_answer(self.behind, cut))?;
        let seen = |piece: &Piece<'_>| count(self.carried, Carried::received, piece);
        copy_seen(&mut source, &mut sink, idle, |_| false, seen).await.map_err(|cut| match cut {
            CopyError::Source(cut) => Failure::AnswerCut(self.behind, cut.to_string()),
            CopyError::Sink(cut @ Cut::Length(_)) => Failure::AnswerCut(self.behind, cut.to_string()),
            CopyError::Sink(cut) => caller_lost(cut),
        })
    }
}

/// Counts what a body moves down a tunnel, or up.
fn count(carried: Option<&Carried>, way: fn(&Carried, usize), piece: &Piece<'_>) {
    if let (Some(carried), Piece::Data(data)) = (carried, piece) {
        way(carried, data.len());
    }
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
    let idle = Idle { source: limits.response_idle, sink: limits.write_idle };
    if let Source::Http1(reader) = &mut caller.upload.source {
        reader.upgrade();
    }
    caller.answer.upgrade();
    backend.sink.upgrade();
    backend.answers.upgrade();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let carried = backend.carried;
    let sent = |piece: &Piece<'_>| count(carried, Carried::sent, piece);
    let received = |piece: &Piece<'_>| count(carried, Carried::received, piece);
    // One direction's clean end leaves the other open; a cut in one is a cut in both.
    let piped = tokio::try_join!(
        async {
            copy_seen(&mut caller.upload.source, &mut backend.sink, idle, |_| false, sent)
                .await
                .map(|moved| up.store(moved, Relaxed))
        },
        async {
            let mut sink = caller.answer.sink().map_err(CopyError::Sink)?;
            let mut source = backend.answers.body().map_err(CopyError::Source)?;
            copy_seen(&mut source, &mut sink, idle, |_| false, received)
                .await
                .map(|moved| down.store(moved, Relaxed))
        }
    );
    exchange.moved(up.into_inner(), down.into_inner());
    if piped.is_err() {
        backend.sink.abort();
        caller.answer.cut();
    }
}

/// Nothing of the request was executed: it did not get as far.
pub(crate) fn not_taken(behind: Behind, cut: &Cut) -> Failure {
    match cut {
        Cut::NoUpgrade => Failure::NoUpgrade(behind),
        cut => Failure::NotTaken(behind, cut.to_string()),
    }
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
