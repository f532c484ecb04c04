//! Attempts that are started one after the other and then run side by side. Knows nothing of what is attempted.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

/// The first success. Each attempt is started when the one before has failed or has had its `head_start`. When all are
/// started and one has failed, those that are silent have `last_chance` left: what refuses one mostly answers none, and
/// beginning anew finds out sooner that it is back. Those that have not won come back with their errors in their own
/// order; `None` for one that was still running, and is dropped. One that was not started is not among them.
pub(super) async fn first<K, T, E, F>(
    attempts: Vec<(K, F)>,
    head_start: Duration,
    last_chance: Duration,
) -> (Option<T>, Vec<(K, Option<E>)>)
where
    F: Future<Output = Result<T, E>> + Unpin,
{
    let mut started: Vec<(K, Option<E>)> = Vec::new();
    let mut waiting = attempts.into_iter();
    let mut running: FuturesUnordered<Numbered<F>> = FuturesUnordered::new();
    let mut failed_at: Option<Instant> = None;
    loop {
        let next = waiting.next();
        let more = next.is_some();
        match next {
            Some((key, attempt)) => {
                running.push(Numbered { number: started.len(), attempt });
                started.push((key, None));
            }
            None if running.is_empty() => return (None, started),
            None => {}
        }
        tokio::select! {
            Some((number, outcome)) = running.next() => match outcome {
                Ok(won) => {
                    started.remove(number);
                    return (Some(won), started);
                }
                Err(error) => {
                    if let Some((_, why)) = started.get_mut(number) {
                        *why = Some(error);
                    }
                    failed_at = Some(Instant::now());
                }
            },
            () = sleep(head_start), if more => {}
            () = sleep_until(failed_at.map_or_else(Instant::now, |at| at + last_chance)),
                if !more && failed_at.is_some() => return (None, started),
        }
    }
}

/// An attempt and its place.
struct Numbered<F> {
    number: usize,
    attempt: F,
}

impl<F: Future + Unpin> Future for Numbered<F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let number = self.number;
        Pin::new(&mut self.attempt).poll(context).map(|outcome| (number, outcome))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    type Attempt = Pin<Box<dyn Future<Output = Result<&'static str, &'static str>>>>;

    fn after(milliseconds: u64, outcome: Result<&'static str, &'static str>) -> Attempt {
        Box::pin(async move {
            sleep(Duration::from_millis(milliseconds)).await;
            outcome
        })
    }

    const HEAD_START: Duration = Duration::from_millis(300);
    const LAST_CHANCE: Duration = Duration::from_millis(1500);

    #[tokio::test(start_paused = true)]
    async fn the_first_has_a_head_start_and_keeps_it_by_answering() {
        let attempts = vec![('q', after(299, Ok("quic"))), ('t', after(0, Ok("tls")))];
        assert_eq!(first(attempts, HEAD_START, LAST_CHANCE).await, (Some("quic"), vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_first_costs_its_head_start_and_no_more() {
        let begun = Instant::now();
        let attempts: Vec<(char, Attempt)> = vec![
            ('q', Box::pin(pending())),
            ('t', after(10, Ok("tls"))),
            ('r', after(0, Ok("never started"))),
        ];
        assert_eq!(first(attempts, HEAD_START, LAST_CHANCE).await, (Some("tls"), vec![('q', None)]));
        assert_eq!(begun.elapsed(), Duration::from_millis(310));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_first_does_not_cost_its_head_start() {
        let begun = Instant::now();
        let attempts = vec![('q', after(1, Err("refused"))), ('t', after(1, Ok("tls")))];
        assert_eq!(
            first(attempts, HEAD_START, LAST_CHANCE).await,
            (Some("tls"), vec![('q', Some("refused"))])
        );
        assert!(begun.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_one_that_answers_late_still_wins_over_nothing() {
        let attempts = vec![('q', after(1700, Ok("quic"))), ('t', after(5, Err("refused")))];
        assert_eq!(
            first(attempts, HEAD_START, LAST_CHANCE).await,
            (Some("quic"), vec![('t', Some("refused"))])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_is_not_waited_for_where_another_was_refused() {
        let begun = Instant::now();
        let attempts: Vec<(char, Attempt)> =
            vec![('q', Box::pin(pending())), ('t', after(0, Err("refused")))];
        let lost = vec![('q', None), ('t', Some("refused"))];
        assert_eq!(first(attempts, HEAD_START, LAST_CHANCE).await, (None, lost));
        assert_eq!(begun.elapsed(), Duration::from_millis(1800));
    }

    #[tokio::test(start_paused = true)]
    async fn every_failure_is_told() {
        let attempts = vec![('q', after(100, Err("silent"))), ('t', after(5, Err("refused")))];
        let lost = vec![('q', Some("silent")), ('t', Some("refused"))];
        assert_eq!(first(attempts, HEAD_START, LAST_CHANCE).await, (None, lost));
        assert_eq!(first(Vec::<(char, Attempt)>::new(), HEAD_START, LAST_CHANCE).await, (None, vec![]));
    }
}
