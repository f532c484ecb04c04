//! The front door: one request, from its head to its record. Each stage is a file; this one is the path.
//!
//! accept -> parse ([`http1`], [`http2`]) -> gather -> manners -> match and pick -> forward -> respond -> record
//!
//! Nothing here knows how tunnels come and go; it sees claims, and the sessions that hold them.

mod accept;
pub(crate) mod caller;
pub(crate) mod forward;
mod http1;
mod http2;
mod manners;
mod proxy_protocol;
mod record;
mod timer;

use std::sync::Arc;

use culvert_protocol::message::{Fields, RequestHead};

pub(crate) use accept::serve;

use crate::failure::Failure;
use crate::front::caller::Caller;
use crate::front::forward::Forwarded;
use crate::front::record::Exchange;
use crate::metrics::LeftOut;
use crate::policy;
use crate::service::Service;
use crate::tunnels::session::Claim;

/// Serves one request: to the developer who claims it, or to the upstream, which also gets what the developer provably
/// never executed.
async fn request(head: &mut RequestHead, caller: &mut Caller<'_>, service: &Service) {
    let mut exchange = Exchange::begin(service);
    let served: Result<(), Failure> = async {
        caller.gather(head, service).await?;
        manners::rewrite(head, caller.peer, &service.manners);
        let claim = claim(head, service);
        caller.route = manners::route(claim.as_deref(), false, &service.manners);
        if let Some(claim) = &claim {
            match forward::tunnel::forward(head, caller, claim, service, &mut exchange).await? {
                Forwarded::Answered => return Ok(()),
                Forwarded::Unexecuted => caller.route = manners::route(Some(claim), true, &service.manners),
            }
        }
        forward::upstream::forward(head, caller, service, &mut exchange).await
    }
    .await;
    if let Err(failure) = served {
        caller.fail(&failure, is_grpc(&head.fields), &service.limits, &mut exchange).await;
    }
}

/// Whose request it is. What the caller's `Connection` names goes first, and what says a steering field in another way, so that
/// everybody reads the same request.
fn claim(head: &mut RequestHead, service: &Service) -> Option<Arc<Claim>> {
    let routes = service.routes.load();
    head.strip_nominated(|name| routes.steers(name));
    head.fields.strip_shadows(|name| routes.steers(name));
    service.metrics.left_out(LeftOut::Underscore, head.fields.shadows().into());
    if !service.manners.public {
        return routes.pick(head).cloned();
    }
    // Who reaches a public door from outside has no right to steer, nor to seem to whoever reads the request next. A field
    // that everybody sends says nothing of the kind.
    let before = head.fields.len();
    head.fields.retain(|name, _| !routes.steers(name) || policy::is_common(name));
    service.metrics.left_out(LeftOut::Steering, (before - head.fields.len()) as u64);
    None
}

/// Whether only a gRPC status is understood as a failure.
fn is_grpc(fields: &Fields) -> bool {
    fields.first("content-type").is_some_and(|value| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}
