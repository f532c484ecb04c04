//! One timer for every wait of a connection. Moving it on is an atomic write, where a timer for each wait would take the
//! runtime's timer lock twice; and what is done at once, as most steps are, does not even ask what time it is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

/// Made when something is first waited for.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

/// The wait was longer than its limit.
#[derive(Debug)]
pub struct TimedOut;

#[derive(Clone, Copy, Debug)]
enum Limit {
    /// From when it turns out that there is something to wait for.
    Within(Duration),
    Until(Instant),
}

pin_project! {
    /// A step, and how long it may take.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Wait<'a, F> {
        timer: &'a mut Timer,
        limit: Limit,
        armed: bool,
        #[pin]
        step: F,
    }
}

impl Timer {
    /// Waits for `step`, and no longer than `limit`.
    pub fn within<F: Future>(&mut self, limit: Duration, step: F) -> Wait<'_, F> {
        Wait { timer: self, limit: Limit::Within(limit), armed: false, step }
    }

    /// Waits for `step`, and no longer than until `deadline`.
    pub fn until<F: Future>(&mut self, deadline: Instant, step: F) -> Wait<'_, F> {
        Wait { timer: self, limit: Limit::Until(deadline), armed: false, step }
    }
}

impl<F: Future> Future for Wait<'_, F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.step.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let timer = &mut this.timer.0;
        if !std::mem::replace(this.armed, true) {
            let deadline = match *this.limit {
                Limit::Within(limit) => Instant::now() + limit,
                Limit::Until(deadline) => deadline,
            };
            match timer {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => *timer = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match timer {
            Some(sleep) => sleep.as_mut().poll(cx).map(|()| Err(TimedOut)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_and_the_next_one_has_its_own() {
        let mut timer = Timer::default();
        let begun = Instant::now();
        assert_eq!(timer.within(Duration::ZERO, ready(1)).await.unwrap(), 1);
        assert!(timer.0.is_none(), "a timer was made for nothing");
        timer.within(Duration::from_secs(2), pending::<()>()).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        timer.until(begun + Duration::from_secs(5), pending::<()>()).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        // Earlier than before, and over already.
        timer.until(begun, pending::<()>()).await.unwrap_err();
        let step = tokio::time::sleep(Duration::from_secs(1));
        timer.within(Duration::from_secs(2), step).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(6));
    }
}
