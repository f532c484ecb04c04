//! `cargo loadtest idle`: what tunnels on which nothing happens cost a relay, in memory and in processor time, and what a
//! request costs beside them.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum as _;
use culvert_client::dial::Rungs;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::binaries::Binaries;
use crate::caller;
use crate::crowd::Crowd;
use crate::figures::{Figure, Table};
use crate::load::Load;
use crate::stack::{Stack, Where};
use crate::upstream::Upstream;

/// What one may cost, in KiB.
const PROMISE: f64 = 40.0;
/// So many tell what one costs.
const ENOUGH: u16 = 1_000;

/// Handshakes are over, what they took is given back, and tunnels are at rest: that is after five seconds without a word.
const SETTLED: Duration = Duration::from_secs(8);
/// Processor time is counted for so long.
const COUNTED: Duration = Duration::from_secs(10);

/// Callers at once where the cost of a request is measured, how often that is, and how long each time.
const CALLERS: usize = 64;
const ROUNDS: usize = 3;
const ASKED: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// How many tunnels, one claim each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 5_000], value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub tunnels: Vec<u16>,
    /// What carries them
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["quic", "tls"])]
    pub transports: Vec<Rungs>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub transport: String,
    pub tunnels: u16,
    /// What the relay keeps in memory without any, in KiB.
    pub at_rest_kib: u64,
    pub memory_kib: u64,
    pub kib_each: f64,
    /// Of one processor, for keeping all of them alive.
    pub processor: f64,
    /// Of the relay, for a request that nobody claims, and for one that one of them does; without what it takes to keep them.
    pub passed_cpu_us: Figure,
    pub claimed_cpu_us: Figure,
}

impl Row {
    pub fn holds(&self) -> bool {
        // Of a few, what the first one brings into memory is most of it.
        self.tunnels < ENOUGH || self.kib_each <= PROMISE
    }
}

/// Each on a relay of its own.
pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for rungs in &effort.transports {
        for tunnels in &effort.tunnels {
            rows.push(measure(binaries, *rungs, *tunnels).await?);
        }
    }
    Ok(rows)
}

async fn measure(binaries: &Binaries, rungs: Rungs, tunnels: u16) -> anyhow::Result<Row> {
    let directory = TempDir::with_prefix("culvert-loadtest-")?;
    let upstream = Upstream::start(directory.path()).await?;
    let stack = Stack::before(binaries, &upstream.url(), Where::Anywhere).await?;
    let at_rest_kib = stack.relay.memory()?;
    let crowd = Crowd::gather(&stack, tunnels.into(), rungs, &upstream.other.to_string()).await?;
    sleep(SETTLED).await;
    let memory_kib = stack.relay.memory()?;
    let (before, begun) = (stack.relay.cpu()?, Instant::now());
    sleep(COUNTED).await;
    let processor = (stack.relay.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let (mut passed_cpu_us, mut claimed_cpu_us) = (Figure::default(), Figure::default());
    for _ in 0..ROUNDS {
        passed_cpu_us.add(cost(&stack, "x-user: nobody", processor).await?);
        claimed_cpu_us.add(cost(&stack, &Crowd::field(0), processor).await?);
    }
    if let Some(lost) = crowd.sessions.iter().position(|session| session.now().is_none()) {
        bail!("tunnel {lost} was lost");
    }
    crowd.leave().await?;
    Ok(Row {
        transport: rungs.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        tunnels,
        at_rest_kib,
        memory_kib,
        kib_each: memory_kib.saturating_sub(at_rest_kib) as f64 / f64::from(tunnels),
        processor,
        passed_cpu_us,
        claimed_cpu_us,
    })
}

/// Of the relay, in microseconds a request; `kept` is what it takes of a processor while nobody asks.
async fn cost(stack: &Stack, field: &str, kept: f64) -> anyhow::Result<f64> {
    let request = caller::request("/small", &[field]);
    let load = Load { address: stack.door, request, connections: CALLERS, time: ASKED };
    let before = stack.relay.cpu()?;
    let outcome = load.run().await?;
    let used = (stack.relay.cpu()? - before).as_secs_f64() - kept * outcome.took.as_secs_f64();
    Ok(used.max(0.0) * 1e6 / outcome.requests.max(1) as f64)
}

pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new(
        1,
        &[
            "tunnels",
            "count",
            "relay at rest KiB",
            "with them KiB",
            "KiB each",
            "processor",
            "µs/request passed on",
            "µs/request claimed",
        ],
    );
    for row in rows {
        table.row(vec![
            row.transport.clone(),
            row.tunnels.to_string(),
            row.at_rest_kib.to_string(),
            row.memory_kib.to_string(),
            format!("{:.1}", row.kib_each),
            format!("{:.0} %", row.processor * 100.0),
            format!("{:.1}", row.passed_cpu_us.median),
            format!("{:.1}", row.claimed_cpu_us.median),
        ]);
    }
    table.render()
}
