//! The front door: one request, from its head to its record. Each stage is a file; this one is the path.
//!
//! accept -> parse ([`http1`], [`http2`]) -> gather -> match and pick -> forward -> respond -> record
//!
//! Nothing here knows how tunnels come and go; it sees claims, and the sessions that hold them.

mod accept;
pub(crate) mod caller;
pub(crate) mod forward;
mod http1;
mod http2;
mod record;
mod timer;

use culvert_protocol::message::RequestHead;

pub(crate) use accept::serve;

use crate::failure::Failure;
use crate::front::caller::Caller;
use crate::front::forward::Forwarded;
use crate::front::record::Exchange;
use crate::service::Service;

/// Serves one request: to the developer who claims it, or to the upstream, which also gets what the developer provably
/// never executed.
async fn request(head: &mut RequestHead, caller: &mut Caller<'_>, service: &Service) {
    let mut exchange = Exchange::begin(service);
    let served = async {
        caller.gather(head, &service.limits).await?;
        let claim = {
            let routes = service.routes.load();
            head.strip_nominated(|name| routes.steers(name));
            routes.pick(head).cloned()
        };
        if let Some(claim) = claim {
            match forward::tunnel::forward(head, caller, &claim, service, &mut exchange).await? {
                Forwarded::Answered => return Ok(()),
                Forwarded::Unexecuted => {}
            }
        }
        forward::upstream::forward(head, caller, service, &mut exchange).await
    };
    let served: Result<(), Failure> = served.await;
    if let Err(failure) = served {
        caller.fail(&failure, &service.limits, &mut exchange).await;
    }
}
