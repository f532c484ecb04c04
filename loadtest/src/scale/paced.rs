//! Callers who come when they come, whether or not the ones before them were answered: so many requests a second, and each
//! one's time is counted from when it was due. A pause of the other side shows in all that were due in it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::caller::{self, Caller};

/// As many connections as keep a request from waiting for the one before it, unless answers take longer than this many turns.
const CONNECTIONS: u32 = 64;

/// When every request was answered, from when it was due; sorted.
pub(super) async fn latencies(
    door: SocketAddr,
    fields: &[&str],
    per_second: u32,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let request = caller::request("/small", fields);
    let (between, begun) = (Duration::from_secs(1) / per_second, Instant::now());
    let mut callers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let request = request.clone();
        callers.spawn(async move {
            let mut caller = Caller::connect(door).await?;
            let (mut due, mut latencies) = (begun + between * number, Vec::new());
            while due.duration_since(begun) < time {
                sleep_until(due).await;
                caller.exchange(&request).await?;
                latencies.push(due.elapsed());
                due += between * CONNECTIONS;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = callers.join_next().await {
        latencies.extend(done.context("a caller's task")??);
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// 0.99: what one in a hundred takes longer than.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the length")]
pub(super) fn quantile(sorted: &[Duration], quantile: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1) as f64 * quantile).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}
