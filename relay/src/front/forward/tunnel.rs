//! Down a developer's tunnel. Nothing but the head and the beginning of the body, which is kept, leaves before the
//! developer has accepted the request: until then it can go elsewhere.

use std::time::Duration;

use culvert_protocol::answers::{Answers, Said};
use culvert_protocol::body::{Cut, Sink, TunnelReader};
use culvert_protocol::frame;
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
    request.fields.push(VIA_FIELD.as_bytes(), pass.as_bytes());
    let (read, write) = stream.split();
    let (mut frames, mut answers) = (frame::Writer::new(write), TunnelReader::new(read));
    let mut response = ResponseHead::default();

    let first = offer(request, caller, claim, &mut frames, &mut answers, &mut response).await?;
    if let Said::Refused(why) = first {
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
        via: service.manners.via,
    };
    carry(request, caller, &mut backend, &mut response, Some(first), &service.limits, exchange).await?;
    Ok(Forwarded::Answered)
}

/// Sends the head and what was kept of the body, and waits for the first word back.
async fn offer(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    claim: &Claim,
    frames: &mut frame::Writer<SendHalf>,
    answers: &mut TunnelReader,
    response: &mut ResponseHead,
) -> Result<Said, Failure> {
    let offered = async {
        frames.request(claim.number, Some(&caller.peer.shown), request)?;
        caller.upload.send_kept(&mut Sink::Tunnel(frames)).await?;
        Answers::Tunnel(answers).next(response).await
    };
    match caller.timer.within(ACCEPT, offered).await {
        Ok(said) => said.map_err(|cut: Cut| no_answer(Behind::Tunnel, cut)),
        Err(_) => Err(Failure::AnswerTimeout(Behind::Tunnel)),
    }
}
