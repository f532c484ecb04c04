//! One timer for every wait of a connection. Moving it on is an atomic write, where a timer for each wait would take the
//! runtime's timer lock twice.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

#[derive(Debug)]
pub(crate) struct Timer(Pin<Box<Sleep>>);

/// The wait was longer than its limit.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl Timer {
    pub(crate) fn new() -> Self {
        Self(Box::pin(sleep(Duration::ZERO)))
    }

    /// Waits for `step`, and no longer than `limit`.
    pub(crate) async fn within<F: Future>(
        &mut self,
        limit: Duration,
        step: F,
    ) -> Result<F::Output, TimedOut> {
        self.until(Instant::now() + limit, step).await
    }

    /// Waits for `step`, and no longer than until `deadline`.
    pub(crate) async fn until<F: Future>(
        &mut self,
        deadline: Instant,
        step: F,
    ) -> Result<F::Output, TimedOut> {
        self.0.as_mut().reset(deadline);
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = self.0.as_mut() => Err(TimedOut),
        }
    }
}
