//! Down a developer's tunnel. Nothing but the head and the beginning of the body, which is kept, leaves before the
//! developer has accepted the request: until then it can go elsewhere.

use std::time::Duration;

use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::body::{Cut, Sink, TunnelReader};
use culvert_protocol::frame::{self, Refusal};
use culvert_protocol::message::{RequestHead, ResponseHead};
use culvert_protocol::tunnel::SendHalf;

use super::{Backend, Forwarded, carry, no_answer};
use crate::failure::{Behind, Failure};
use crate::front::caller::Caller;
use crate::front::manners::{self, VIA_FIELD};
use crate::front::record::Exchange;
use crate::metrics::Reached;
use crate::service::Service;
use crate::tunnels::session::Claim;

/// Opening a stream waits only at the tunnel's stream limit; a tunnel that full for that long is as good as none.
const OPEN: Duration = Duration::from_secs(2);
/// To hand a head to an app on the same machine, over any link that still is one.
const ACCEPT: Duration = Duration::from_secs(10);
/// The same for a request that can be asked for elsewhere instead: no caller waits longer for a dead tunnel.
const FIRST_WORD: Duration = Duration::from_secs(3);

pub(crate) async fn forward(
    request: &mut RequestHead,
    caller: &mut Caller<'_>,
    claim: &Claim,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<Forwarded, Failure> {
    let Ok(Ok(stream)) = caller.timer.within(OPEN, claim.session.tunnel.open()).await else {
        return Ok(Forwarded::Unexecuted);
    };
    exchange.reaches(Reached::Tunnel);
    let pass = manners::pass(claim);
    if manners::has_passed(request, &pass) {
        return Err(Failure::Loop);
    }
    let lines = request.fields.len();
    request.fields.push(VIA_FIELD.as_bytes(), pass.as_bytes());
    let (read, write) = stream.split();
    let (mut frames, mut answers) = (frame::Writer::new(write), TunnelReader::new(read));
    let mut response = ResponseHead::default();

    let first = offer(request, caller, claim, &mut frames, &mut answers, &mut response).await?;
    if let Said::Refused(why) = first {
        // What was said of us to a developer is not for the upstream.
        request.fields.truncate(lines);
        tracing::debug!(service = %service.name, ?why, "the developer refused a request: it goes to the upstream");
        return Ok(Forwarded::Unexecuted);
    }
    caller.upload.commit();
    let mut backend = Backend {
        behind: Behind::Tunnel,
        sink: Sink::Tunnel(&mut frames),
        answers: Answers::Tunnel(&mut answers),
        // A developer may sit at a breakpoint; whether the tunnel is alive is watched elsewhere.
        patience: service.limits.response_idle,
        via: service.manners.says_via(),
        broken: false,
    };
    carry(request, caller, &mut backend, &mut response, Some(first), service, exchange).await?;
    Ok(Forwarded::Answered)
}

/// Sends the head and what was kept of the body, and waits for the first word back. A request that changes nothing is asked for
/// elsewhere where that word does not come; any other may have been executed, and is not.
async fn offer(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    claim: &Claim,
    frames: &mut frame::Writer<SendHalf>,
    answers: &mut TunnelReader,
    response: &mut ResponseHead,
) -> Result<Said, Failure> {
    let repeatable = caller.upload.is_whole() && request.is_safe();
    let limit = if repeatable { FIRST_WORD } else { ACCEPT };
    let Caller { upload, answer, timer, peer, .. } = caller;
    let offered = async {
        frames.request(claim.number, Some(&peer.shown), request)?;
        upload.send_kept(&mut Sink::Tunnel(frames)).await?;
        let mut answers = Answers::Tunnel(answers);
        tokio::select! {
            biased;
            said = answers.next(response) => said.map(Some),
            () = upload.hung_up() => Ok(None),
            () = answer.gone() => Ok(None),
        }
    };
    match timer.within(limit, offered).await {
        Ok(Ok(Some(said))) => Ok(said),
        Ok(Ok(None)) => Err(Failure::CallerGone),
        Ok(Err(Cut::Io(_) | Cut::Ended)) | Err(_) if repeatable => Ok(Said::Refused(Refusal::Other)),
        Ok(Err(cut)) => Err(no_answer(Behind::Tunnel, cut)),
        Err(_) => Err(Failure::AnswerTimeout(Behind::Tunnel)),
    }
}
