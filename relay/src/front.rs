//! The front door: one request, from its head to its record. Each stage is a file; this one is the path.
//!
//! accept -> parse ([`http1`], [`http2`]) -> gather -> manners -> match and pick -> forward -> respond -> record
//!
//! Nothing here knows how tunnels come and go; it sees claims, and the lanes that carry them. Who cannot be reached is dealt with
//! in [`unreachable`].

mod accept;
pub(crate) mod caller;
pub(crate) mod forward;
mod http1;
mod http2;
mod manners;
mod proxy_protocol;
mod record;
mod unreachable;

use std::sync::Arc;

use culvert_protocol::frame::Refusal;
use culvert_protocol::message::{Fields, RequestHead};
use tokio::time::Instant;

pub(crate) use accept::serve;

use crate::failure::Failure;
use crate::front::caller::Caller;
use crate::front::forward::{Forwarded, Why};
use crate::front::manners::{Place, VIA_FIELD};
use crate::front::record::Exchange;
use crate::front::unreachable::Instead;
use crate::metrics::LeftOut;
use crate::policy;
use crate::service::Service;
use crate::tunnels::claim::Claim;

/// How often developers are asked for one request. More means that their tunnels come and go faster than it could.
const TRIES: u32 = 8;

/// Serves one request: by the developer who claims it, or by the upstream, which also gets what no developer could be reached for.
async fn request(head: &mut RequestHead, caller: &mut Caller<'_>, service: &Service) {
    let mut exchange = Exchange::begin(service);
    let served: Result<(), Failure> = async {
        caller.gather(head, service).await?;
        manners::rewrite(head, caller.peer, &service.manners);
        strip(head, service);
        let claimed = pick(head, service);
        caller.route = manners::route(claimed.as_deref(), Place::Tunnel, &service.manners);
        if let Some(claim) = claimed {
            let lines = head.fields.len();
            if developer(claim, head, caller, service, &mut exchange).await? == Forwarded::Answered {
                return Ok(());
            }
            // What was said of us to a developer is not for the upstream.
            head.fields.truncate(lines);
        }
        forward::upstream::forward(head, caller, service, &mut exchange).await
    }
    .await;
    if let Err(failure) = served {
        caller.fail(&failure, is_grpc(&head.fields), &service.limits, &mut exchange).await;
    }
}

/// Asks the developer who claims a request, on one tunnel after the other, and goes by the claim's policy when there is none.
async fn developer(
    mut claim: Arc<Claim>,
    head: &mut RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<Forwarded, Failure> {
    let (mut tried, mut passed, mut vain, mut full, mut tries) = (Vec::new(), None, None, None, 0);
    let mut last = Why::Silent;
    loop {
        if let Some(lane) = claim.lane(&tried).filter(|_| tries < TRIES) {
            if passed != Some(claim.fence) {
                if manners::has_passed(head, &claim.pass) {
                    return Err(Failure::Loop);
                }
                head.fields.push(VIA_FIELD.as_bytes(), claim.pass.as_bytes());
                passed = Some(claim.fence);
            }
            tries += 1;
            let begun = Instant::now();
            let way = (&*claim, &lane, vain.unwrap_or(begun), full);
            let asked = forward::tunnel::forward(head, caller, way, service, exchange).await?;
            let Forwarded::Unexecuted(why) = asked else { return Ok(asked) };
            tracing::debug!(service = %service.name, ?why, "a developer did not take a request");
            last = why;
            match why {
                // A tunnel in doubt is passed over as long as it is.
                Why::Silent => {
                    vain.get_or_insert(begun);
                    continue;
                }
                Why::Cut | Why::Full | Why::Refused(Refusal::Draining) => {
                    // However many are full, nobody waits longer than for one.
                    if why == Why::Full {
                        full.get_or_insert(begun);
                    }
                    tried.push(lane.fence);
                    continue;
                }
                // Its other tunnels lead to the same app.
                Why::Late | Why::Refused(_) => {}
            }
        } else if claim.unreachable().is_some() && tries < TRIES {
            caller.route = manners::route(Some(&claim), Place::Unreachable, &service.manners);
            let vain = *vain.get_or_insert_with(Instant::now);
            match unreachable::instead(&claim, head, caller, service, vain).await? {
                Instead::Upstream => return Ok(Forwarded::Unexecuted(Why::Silent)),
                Instead::Claim(other) => {
                    claim = other;
                    tried.clear();
                    caller.route = manners::route(Some(&claim), Place::Tunnel, &service.manners);
                    continue;
                }
            }
        }
        // It can be reached, and did not take this.
        caller.route = manners::route(Some(&claim), Place::Refused, &service.manners);
        return match claim.intercept.on_unreachable.has_elsewhere() {
            true => Ok(Forwarded::Unexecuted(last)),
            false => Err(Failure::Unreachable),
        };
    }
}

/// What the caller's `Connection` names goes first, and what says a steering field in another way, so that everybody reads the same
/// request. Who reaches a public door from outside has no right to steer, nor to seem to whoever reads it next.
fn strip(head: &mut RequestHead, service: &Service) {
    let routes = service.routes.load();
    head.strip_nominated(|name| routes.steers(name));
    head.fields.strip_shadows(|name| routes.steers(name));
    service.metrics.left_out(LeftOut::Underscore, head.fields.shadows().into());
    if service.manners.public {
        // A field that everybody sends says nothing of the kind.
        let before = head.fields.len();
        head.fields.retain(|name, _| !routes.steers(name) || policy::is_common(name));
        service.metrics.left_out(LeftOut::Steering, (before - head.fields.len()) as u64);
    }
}

/// Whose request it is, right now.
fn pick(head: &RequestHead, service: &Service) -> Option<Arc<Claim>> {
    if service.manners.public { None } else { service.routes.load().pick(head).cloned() }
}

/// Whether only a gRPC status is understood as a failure.
fn is_grpc(fields: &Fields) -> bool {
    fields.first("content-type").is_some_and(|value| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}
