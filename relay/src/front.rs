//! The front door: one request, from its head to its record. Each stage is a file; this one is the path.
//!
//! accept -> parse ([`http1`], [`http2`]) -> gather -> manners -> match and pick -> forward -> respond -> record
//!
//! Nothing here knows how tunnels come and go; it sees claims, and the lanes that carry them. Who cannot be reached is dealt with
//! in [`unreachable`].

mod accept;
mod attempts;
pub(crate) mod caller;
pub(crate) mod forward;
mod http1;
mod http2;
mod manners;
mod proxy_protocol;
mod record;
mod unreachable;

use std::sync::Arc;

use culvert_protocol::message::{Fields, RequestHead};
use tokio::time::Instant;

pub(crate) use accept::serve;

use crate::failure::Failure;
use crate::front::attempts::{Attempts, Waiting};
use crate::front::caller::Caller;
use crate::front::forward::Forwarded;
use crate::front::manners::{Place, VIA_FIELD};
use crate::front::record::Exchange;
use crate::front::unreachable::Instead;
use crate::metrics::LeftOut;
use crate::policy;
use crate::service::Service;
use crate::tunnels::claim::{Claim, Lane};

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
            match developer(claim, head, caller, service, &mut exchange).await? {
                By::Developer => return Ok(()),
                By::Upstream => {}
            }
        }
        forward::upstream::forward(head, caller, service, &mut exchange).await
    }
    .await;
    if let Err(failure) = served {
        caller.fail(&failure, is_grpc(&head.fields), &service.limits, &mut exchange).await;
    }
}

/// Whose answer a request gets.
enum By {
    /// It has got it.
    Developer,
    Upstream,
}

/// Asks the developer who claims a request, on one tunnel after the other, and goes by the claim's policy when there is none.
async fn developer(
    mut claim: Arc<Claim>,
    head: &mut RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<By, Failure> {
    let mut attempts = Attempts::default();
    while attempts.go_on() {
        let Some(lane) = claim.lane(attempts.tried()) else {
            if claim.unreachable().is_none() {
                break;
            }
            caller.route = manners::route(Some(&claim), Place::Unreachable, &service.manners);
            let since = attempts.in_vain(Instant::now());
            match unreachable::instead(&claim, head, caller, service, since).await? {
                Instead::Upstream => return Ok(By::Upstream),
                Instead::Claim(now) => claim = now,
            }
            attempts.begin_anew();
            caller.route = manners::route(Some(&claim), Place::Tunnel, &service.manners);
            continue;
        };
        let begun = Instant::now();
        let way = (&*claim, &lane, attempts.ask(begun));
        match ask(head, caller, way, service, exchange).await? {
            Forwarded::Answered => return Ok(By::Developer),
            Forwarded::Unexecuted(why) => {
                tracing::debug!(service = %service.name, ?why, "a developer did not take a request");
                attempts.missed(lane.fence, why, begun);
            }
        }
    }
    // They can be reached, and did not take this.
    caller.route = manners::route(Some(&claim), Place::Refused, &service.manners);
    match claim.intercept.on_unreachable.has_elsewhere() {
        true => Ok(By::Upstream),
        false => Err(Failure::Unreachable),
    }
}

/// Asks on one tunnel. What is said of us there is for nobody else.
async fn ask(
    head: &mut RequestHead,
    caller: &mut Caller<'_>,
    (claim, lane, waiting): (&Claim, &Lane, Waiting),
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<Forwarded, Failure> {
    if manners::has_passed(head, &claim.pass) {
        return Err(Failure::Loop);
    }
    let lines = head.fields.len();
    head.fields.push(VIA_FIELD.as_bytes(), claim.pass.as_bytes());
    let asked = forward::tunnel::forward(head, caller, (claim, lane, waiting), service, exchange).await;
    head.fields.truncate(lines);
    asked
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
