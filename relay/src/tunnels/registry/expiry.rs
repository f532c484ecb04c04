//! What ends by itself: a claim whose time is over, and one whose owner did not come back. One task for all of them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::{Ended, Refused, Registry};

/// Nothing ends by itself within this: then it is looked at again.
const FAR: Duration = Duration::from_secs(3600);

impl Registry {
    /// Ends what is due, each at its moment, until `stop`.
    pub(crate) async fn expire(&self, stop: CancellationToken) {
        loop {
            let now = Instant::now();
            self.end_due(now);
            let next = self.held.lock().claims.next_due().unwrap_or(now + FAR);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.due.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn end_due(&self, now: Instant) {
        let mut held = self.held.lock();
        for fence in held.claims.due_by(now) {
            let Some(entry) = held.claims.remove(fence) else { continue };
            let Entry { claim, expires, .. } = &entry;
            let over = expires.is_some_and(|expires| expires <= now);
            self.publish(&held, &claim.intercept.service, &[&entry], None);
            for lane in claim.lanes() {
                lane.session.tell(Refused::Expired.denial(lane.number));
            }
            claim.wake();
            if over { Ended::Expired } else { Ended::Lost }.log(claim, false);
        }
    }
}

impl Entry {
    pub(super) fn due(&self) -> Option<Instant> {
        let away = self.claim.away().map(|away| away.until);
        self.expires.into_iter().chain(away).min()
    }
}
