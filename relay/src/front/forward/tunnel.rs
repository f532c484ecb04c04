//! Down a developer's tunnel, and no further than may be taken back: what changes something is handed to the app only when it
//! goes nowhere else any more, and what changes nothing is asked for elsewhere as long as no answer has begun.

use std::pin::pin;
use std::time::Duration;

use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::body::{Cut, Sink, TunnelReader};
use culvert_protocol::frame;
use culvert_protocol::head::Opening;
use culvert_protocol::intercept::OnUnreachable;
use culvert_protocol::message::{RequestHead, ResponseHead};
use culvert_protocol::tunnel::{SendHalf, Stream};
use tokio::time::Instant;

use super::{Backend, Forwarded, Why, carry, no_answer};
use crate::failure::{Behind, Failure};
use crate::front::attempts::Waiting;
use crate::front::caller::Caller;
use crate::front::record::Exchange;
use crate::metrics::Reached;
use crate::service::Service;
use crate::tunnels::claim::{Claim, Lane};
use crate::tunnels::session::{Carried, Session};

/// Opening a stream waits only at the tunnel's stream limit; tunnels that full for that long are as good as none.
const OPEN: Duration = Duration::from_secs(2);
/// To hand a head to an app on the same machine, over any link that still is one.
const ACCEPT: Duration = Duration::from_secs(10);
/// A request that has had no word for so long leaves a tunnel that is silent altogether. Less than 3 s, which no caller is to
/// wait for a dead one, and more than a hand-over between two networks takes.
const FIRST_WORD: Duration = Duration::from_millis(2_500);
/// A ping that was sent for a request is missed after this, whatever else comes.
const UNANSWERED: Duration = Duration::from_millis(1_250);
/// How often a request that waits for its first word looks whether it should wait elsewhere.
const LOOK: Duration = Duration::from_millis(100);

/// Until when a request may be sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Movable {
    /// It changes nothing, and all of it is here: until an answer has begun.
    UntilAnswered,
    /// Until we say that it goes nowhere else.
    UntilConfirmed,
    /// Nobody else is to be asked, so that nobody has to wait for a confirmation.
    Never,
}

impl Movable {
    fn of(request: &RequestHead, caller: &Caller<'_>, claim: &Claim) -> Self {
        if caller.upload.is_whole() && request.is_safe() {
            Self::UntilAnswered
        } else if claim.intercept.on_unreachable.has_elsewhere() {
            Self::UntilConfirmed
        } else {
            Self::Never
        }
    }
}

/// The caller may have waited already: for a word, or for a place, on tunnels that had none.
pub(crate) async fn forward(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    (claim, lane, waiting): (&Claim, &Lane, Waiting),
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<Forwarded, Failure> {
    let stream = match open(caller, &lane.session, room(claim, waiting)).await? {
        Ok(stream) => stream,
        Err(why) => return Ok(Forwarded::Unexecuted(why)),
    };
    exchange.reaches(Reached::Tunnel);
    let carried = Carried::by(&lane.session);
    let (read, write) = stream.split();
    let (mut frames, mut answers) = (frame::Writer::new(write), TunnelReader::new(read));
    let mut response = ResponseHead::default();

    let movable = Movable::of(request, caller, claim);
    let way = (claim, lane, waiting.word);
    let offered = offer(request, caller, way, movable, &mut frames, &mut answers, &mut response).await?;
    let first = match offered {
        Ok(Said::Refused(why)) => return Ok(Forwarded::Unexecuted(Why::Refused(why))),
        Ok(said) => said,
        Err(why) => return Ok(Forwarded::Unexecuted(why)),
    };
    if movable == Movable::UntilConfirmed {
        if first != Said::Accepted {
            let what = "an answer to what it was not to have yet".to_owned();
            return Err(Failure::BadAnswer(Behind::Tunnel, what));
        }
        // Said or not, from here on it may be the app's.
        frames.confirmed().map_err(|fault| no_answer(Behind::Tunnel, fault.into()))?;
        let mut sink = Sink::Tunnel(&mut frames);
        let sending = caller.upload.send_kept(&mut sink);
        match caller.timer.within(service.limits.body_idle, sending).await {
            Ok(sent) => sent.map_err(|cut| no_answer(Behind::Tunnel, cut))?,
            Err(_) => return Err(Failure::AnswerTimeout(Behind::Tunnel)),
        }
    }
    if movable != Movable::UntilAnswered {
        caller.upload.commit();
    }
    let mut backend = Backend {
        behind: Behind::Tunnel,
        sink: Sink::Tunnel(&mut frames),
        answers: Answers::Tunnel(&mut answers),
        // A developer may sit at a breakpoint; whether the tunnel is alive is watched elsewhere.
        patience: service.limits.response_idle,
        via: service.manners.says_via(),
        broken: false,
        carried: Some(&carried),
    };
    let done = carry(request, caller, &mut backend, &mut response, Some(first), service, exchange).await;
    match done {
        // Whatever was made of the request comes no more.
        Err(Failure::NoAnswer(..)) if movable == Movable::UntilAnswered && !caller.answer.is_committed() => {
            lane.session.check();
            Ok(Forwarded::Unexecuted(Why::Cut))
        }
        Err(failure) => Err(failure),
        Ok(_) => {
            caller.upload.commit();
            Ok(Forwarded::Answered)
        }
    }
}

/// A stream for a request, unless the caller hangs up while it waits for one.
async fn open(
    caller: &mut Caller<'_>,
    session: &Session,
    limit: Duration,
) -> Result<Result<Stream, Why>, Failure> {
    let Caller { upload, answer, timer, .. } = caller;
    let opening = async {
        tokio::select! {
            biased;
            opened = session.tunnel.open() => Some(opened),
            () = upload.hung_up() => None,
            () = answer.gone() => None,
        }
    };
    match timer.within(limit, opening).await {
        Ok(Some(Ok(stream))) => Ok(Ok(stream)),
        Ok(Some(Err(_))) => {
            session.check();
            Ok(Err(Why::Cut))
        }
        Ok(None) => Err(Failure::CallerGone),
        Err(_) => Ok(Err(Why::Full)),
    }
}

/// How long a request may wait for a place: who waits for a developer anyway goes on waiting, when a thousand others have come
/// back to them at the same moment.
fn room(claim: &Claim, Waiting { word, place }: Waiting) -> Duration {
    let most = match claim.intercept.on_unreachable {
        OnUnreachable::Hold(patience) => patience.duration().saturating_sub(word.elapsed()).max(OPEN),
        OnUnreachable::Upstream | OnUnreachable::Status503 => OPEN,
    };
    most.saturating_sub(place.map_or(Duration::ZERO, |since| since.elapsed()))
}

fn late(since: Instant) -> bool {
    since.elapsed() >= FIRST_WORD
}

/// Sends the head, and what was kept of the body unless that waits for a confirmation, and waits for the first word back. A tunnel
/// that has none is asked whether it is there; a request that may leaves one that is not.
async fn offer(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    (claim, lane, since): (&Claim, &Lane, Instant),
    movable: Movable,
    frames: &mut frame::Writer<SendHalf>,
    answers: &mut TunnelReader,
    response: &mut ResponseHead,
) -> Result<Result<Said, Why>, Failure> {
    let session = &lane.session;
    let confirm = movable == Movable::UntilConfirmed;
    let Caller { upload, answer, timer, peer, .. } = caller;
    let opening = Opening::Http { claim: lane.number, peer: Some(&peer.shown), confirm };
    let offering = async {
        frames.request(opening, request)?;
        match confirm {
            true => frames.flush().await?,
            false => upload.send_kept(&mut Sink::Tunnel(frames)).await?,
        }
        let mut answers = Answers::Tunnel(answers);
        tokio::select! {
            biased;
            said = answers.next(response) => said.map(Some),
            () = upload.hung_up() => Ok(None),
            () = answer.gone() => Ok(None),
        }
    };
    let mut offering = pin!(offering);
    let begun = Instant::now();
    let mut asked = None;
    let mut wait = session.patience();
    loop {
        match timer.within(wait, offering.as_mut()).await {
            Ok(Ok(Some(said))) => {
                session.heard_what_was_said(begun);
                return Ok(Ok(said));
            }
            Ok(Ok(None)) => return Err(Failure::CallerGone),
            Ok(Err(cut)) => {
                session.check();
                let moved = movable != Movable::Never && matches!(cut, Cut::Io(_) | Cut::Ended);
                return if moved { Ok(Err(Why::Cut)) } else { Err(no_answer(Behind::Tunnel, cut)) };
            }
            Err(_) => {}
        }
        match asked {
            None => {
                session.ask();
                asked = Some(Instant::now());
                wait = session.patience();
                continue;
            }
            Some(at) if !session.heard_since(at) => session.doubt(),
            // It may say this and that, and not hear us.
            Some(at) if late(since) && at.elapsed() >= UNANSWERED && !session.answered_since(at) => {
                session.deaf()
            }
            Some(_) => {}
        }
        wait = LOOK;
        let (silent, late) = (session.doubted().is_some(), late(since));
        match movable {
            Movable::Never if silent && late => {
                return Err(Failure::NoAnswer(Behind::Tunnel, "it is silent".to_owned()));
            }
            Movable::Never if begun.elapsed() >= ACCEPT => {
                return Err(Failure::AnswerTimeout(Behind::Tunnel));
            }
            Movable::Never => {}
            // Another tunnel to the same developer is worth no wait at all.
            _ if silent && (late || claim.lane(&[lane.fence]).is_some()) => return Ok(Err(Why::Silent)),
            _ if begun.elapsed() >= ACCEPT => return Ok(Err(Why::Late)),
            _ => {}
        }
    }
}
