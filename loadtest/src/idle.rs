//! `cargo loadtest idle`: what a tunnel costs a relay on which nothing happens, in memory and in processor time.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum as _;
use culvert_client::dial::Rungs;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::binaries::Binaries;
use crate::crowd::Crowd;
use crate::figures::Table;
use crate::stack::{Stack, Where};

/// What one may cost, in KiB.
const PROMISE: f64 = 40.0;

/// Handshakes are over, what they took is given back, and tunnels are at rest: that is after five seconds without a word.
const SETTLED: Duration = Duration::from_secs(8);
/// Processor time is counted for so long.
const COUNTED: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// How many tunnels, one claim each
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000], value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub tunnels: Vec<u16>,
    /// What carries them
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["quic", "tls"])]
    pub transports: Vec<Rungs>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub transport: String,
    pub tunnels: u16,
    /// What the relay keeps in memory without any, in KiB.
    pub at_rest_kib: u64,
    pub memory_kib: u64,
    pub kib_each: f64,
    /// Of one processor, for keeping all of them alive.
    pub processor: f64,
}

impl Row {
    pub fn holds(&self) -> bool {
        self.kib_each <= PROMISE
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
    // Nobody asks for anything.
    let nowhere = "http://127.0.0.1:1";
    let stack = Stack::before(binaries, nowhere, Where::Anywhere).await?;
    let at_rest_kib = stack.relay.memory()?;
    let crowd = Crowd::gather(&stack, tunnels.into(), rungs, "127.0.0.1:1").await?;
    sleep(SETTLED).await;
    let memory_kib = stack.relay.memory()?;
    let (before, begun) = (stack.relay.cpu()?, Instant::now());
    sleep(COUNTED).await;
    let processor = (stack.relay.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
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
    })
}

pub fn table(rows: &[Row]) -> String {
    let mut table =
        Table::new(1, &["tunnels", "count", "relay at rest KiB", "with them KiB", "KiB each", "processor"]);
    for row in rows {
        table.row(vec![
            row.transport.clone(),
            row.tunnels.to_string(),
            row.at_rest_kib.to_string(),
            row.memory_kib.to_string(),
            format!("{:.1}", row.kib_each),
            format!("{:.0} %", row.processor * 100.0),
        ]);
    }
    table.render()
}
