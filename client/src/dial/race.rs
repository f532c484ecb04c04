//! Attempts that are started one after the other and then run side by side. Knows nothing of what is attempted.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

/// The first success; the others are dropped. Each attempt is started when the one before has failed, or has had the
/// head start that stands before the attempt. When all are started and one has failed, the others have `last_chance` left, as
/// it is by then: what refuses one mostly answers none, and beginning anew finds out sooner that it is back.
pub(super) async fn first<T, E, F>(
    attempts: Vec<(Duration, F)>,
    last_chance: impl Fn() -> Duration,
) -> Option<T>
where
    F: Future<Output = Result<T, E>> + Unpin,
{
    let mut waiting = attempts.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut failed_at: Option<Instant> = None;
    loop {
        match waiting.next() {
            Some((_, attempt)) => running.push(attempt),
            None if running.is_empty() => return None,
            None => {}
        }
        let next = waiting.peek().map(|(head_start, _)| *head_start);
        // Begun together, and not a timer's tick later.
        if next == Some(Duration::ZERO) {
            continue;
        }
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(won) => return Some(won),
                Err(_) => failed_at = Some(Instant::now()),
            },
            () = sleep(next.unwrap_or_default()), if next.is_some() => {}
            () = sleep_until(failed_at.map_or_else(Instant::now, |at| at + last_chance())),
                if next.is_none() && failed_at.is_some() => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::Pin;

    use super::*;

    type Attempt = Pin<Box<dyn Future<Output = Result<&'static str, ()>>>>;

    fn after(milliseconds: u64, outcome: Result<&'static str, ()>) -> Attempt {
        Box::pin(async move {
            sleep(Duration::from_millis(milliseconds)).await;
            outcome
        })
    }

    const HEAD_START: Duration = Duration::from_millis(300);
    const LAST_CHANCE: Duration = Duration::from_millis(1500);

    async fn race(attempts: Vec<Attempt>) -> (Option<&'static str>, Duration) {
        let begun = Instant::now();
        let attempts = attempts.into_iter().map(|attempt| (HEAD_START, attempt)).collect();
        (first(attempts, || LAST_CHANCE).await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_has_a_head_start_and_keeps_it_by_answering() {
        let (won, _) = race(vec![after(299, Ok("quic")), after(0, Ok("tls"))]).await;
        assert_eq!(won, Some("quic"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_first_costs_its_head_start_and_no_more() {
        let attempts =
            vec![Box::pin(pending()) as Attempt, after(10, Ok("tls")), after(0, Ok("never started"))];
        assert_eq!(race(attempts).await, (Some("tls"), Duration::from_millis(310)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_first_does_not_cost_its_head_start() {
        let (won, took) = race(vec![after(1, Err(())), after(1, Ok("tls"))]).await;
        assert_eq!(won, Some("tls"));
        assert!(took < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_head_start_the_faster_one_wins() {
        let attempts = vec![(HEAD_START, after(50, Ok("tls"))), (Duration::ZERO, after(20, Ok("quic")))];
        assert_eq!(first(attempts, || LAST_CHANCE).await, Some("quic"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_one_that_answers_late_still_wins_over_nothing() {
        let (won, _) = race(vec![after(1700, Ok("quic")), after(5, Err(()))]).await;
        assert_eq!(won, Some("quic"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_is_not_waited_for_where_another_was_refused() {
        let attempts = vec![Box::pin(pending()) as Attempt, after(0, Err(()))];
        assert_eq!(race(attempts).await, (None, Duration::from_millis(1800)));
        assert_eq!(race(Vec::new()).await, (None, Duration::ZERO));
    }
}
