//! What a caller gets whose developer cannot be reached: the upstream's answer, a wait, or a 503. Decided before anything of the
//! request is anybody's; who can be reached is the claim's to know.

use std::pin::pin;
use std::sync::Arc;

use culvert_protocol::intercept::{OnUnreachable, Patience};
use culvert_protocol::message::RequestHead;
use tokio::time::Instant;

use super::caller::Caller;
use super::pick;
use crate::failure::Failure;
use crate::service::Service;
use crate::tunnels::claim::Claim;

/// Who is asked instead.
#[derive(Debug)]
pub(crate) enum Instead {
    /// A developer can be reached, or another one has the request now.
    Claim(Arc<Claim>),
    Upstream,
}

/// By the claim's policy. The caller has waited in vain since then, on tunnels that were silent too: however often a developer comes
/// and goes, no caller waits longer than the policy says.
pub(super) async fn instead(
    claim: &Arc<Claim>,
    head: &RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    vain: Instant,
) -> Result<Instead, Failure> {
    match claim.intercept.on_unreachable {
        OnUnreachable::Upstream => Ok(Instead::Upstream),
        OnUnreachable::Status503 => Err(Failure::Unreachable),
        OnUnreachable::Hold(patience) => hold(patience, claim, head, caller, service, vain).await,
    }
}

/// Waits for the developer to come back, for as long as that is expected.
async fn hold(
    patience: Patience,
    claim: &Arc<Claim>,
    head: &RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    vain: Instant,
) -> Result<Instead, Failure> {
    let Ok(_place) = service.held.try_acquire() else { return Ok(Instead::Upstream) };
    let own = vain + patience.duration();
    let _counted = service.metrics.hold();
    let Caller { upload, answer, timer, .. } = caller;
    loop {
        let mut changed = pin!(claim.changed());
        // From here on no change goes by unnoticed.
        changed.as_mut().enable();
        let Some(now) = pick(head, service) else { return Ok(Instead::Upstream) };
        let Some(since) = now.unreachable().filter(|_| Arc::ptr_eq(&now, claim)) else {
            return Ok(Instead::Claim(now));
        };
        let waiting = async {
            tokio::select! {
                biased;
                () = changed => true,
                () = upload.hung_up() => false,
                () = answer.gone() => false,
            }
        };
        match timer.until(own.min(since + patience.duration()), waiting).await {
            Ok(true) => {}
            Ok(false) => return Err(Failure::CallerGone),
            Err(_) => return Ok(Instead::Upstream),
        }
    }
}
