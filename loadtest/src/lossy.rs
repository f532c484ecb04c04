//! `cargo loadtest lossy`: small requests beside a bulk download on one tunnel, over links that lose packets. What is claimed is
//! that a small request beside it takes at most twice as long as one without, at the 99th percentile.
//!
//! The links and the figures stand here; what happens on one of them is `inside`, which is this program again, in the relay's
//! network namespace.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::figures::Table;
use crate::link::namespaces::Namespaces;
use crate::link::{Link, Settings};
use crate::process::Process;

pub mod inside;

/// What p99 beside the bulk may be, as a multiple of p99 alone.
const PROMISE: f64 = 2.0;

/// A developer's line, and how long a packet may wait for it.
const RATE: f64 = 100e6;
const QUEUE: Duration = Duration::from_millis(100);

/// Round trip in ms, and which share of packets is lost, each way.
const LINKS: [(u64, f64); 3] = [(50, 0.01), (100, 0.02), (100, 0.0)];

#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// How long each phase is measured: without the bulk download, and beside it
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub seconds: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub rounds: u8,
    /// What carries the tunnel
    #[arg(long, value_delimiter = ',', default_values = ["quic", "tls"])]
    pub transports: Vec<String>,
    /// Links as ROUND-TRIP-MS:LOSS, instead of 50:0.01, 100:0.02 and 100:0
    #[arg(long, value_delimiter = ',', value_parser = link)]
    pub links: Vec<(u64, f64)>,
}

/// One transport on one link.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub round_trip_ms: u64,
    pub loss: f64,
    pub transport: String,
    #[serde(flatten)]
    pub found: Found,
}

/// What was found there; times in ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub p50_alone: f64,
    pub p99_alone: f64,
    pub p50_beside: f64,
    pub p99_beside: f64,
    pub bulk_mbit: f64,
    /// What the kernel controls TCP's congestion with.
    pub tcp: String,
}

impl Row {
    pub fn holds(&self) -> bool {
        self.found.p99_beside <= PROMISE * self.found.p99_alone
    }
}

/// Each link, each transport, in turn.
pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let links = if effort.links.is_empty() { &LINKS[..] } else { &effort.links };
    let mut rows = Vec::new();
    for _ in 0..effort.rounds {
        for &(round_trip_ms, loss) in links {
            for transport in &effort.transports {
                let settings = Settings {
                    delay: Duration::from_millis(round_trip_ms) / 2,
                    jitter: Duration::ZERO,
                    loss,
                    rate: Some(RATE),
                    queue: QUEUE,
                };
                let found = on(settings, transport, binaries, effort).await;
                let found = found.with_context(|| format!("{transport}, {round_trip_ms} ms, {loss}"))?;
                rows.push(Row { round_trip_ms, loss, transport: transport.clone(), found });
            }
        }
    }
    Ok(rows)
}

/// A link of its own for each, so that none finds what another has left.
async fn on(
    settings: Settings,
    transport: &str,
    binaries: &Binaries,
    effort: &Effort,
) -> anyhow::Result<Found> {
    let namespaces = Namespaces::make()?;
    let _link = Link::between(&namespaces.near, &namespaces.far, settings)?;
    namespaces.join()?;
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &namespaces.far]).arg(std::env::current_exe()?);
    inside.args(["lossy-inside", "measure", "--near", &namespaces.near, "--transport", transport]);
    inside.args(["--seconds", &effort.seconds.to_string()]);
    inside.arg("--relay").arg(&binaries.relay).arg("--client").arg(&binaries.client);
    let inside = Process::start("a measurement", inside)?;
    let longest = Duration::from_secs(effort.seconds) * 2 + inside::AROUND;
    let ended = inside.ended_within(longest).await?;
    if ended.code != Some(0) {
        bail!("{}", ended.stderr);
    }
    serde_json::from_str(&ended.stdout).with_context(|| format!("reading {}", ended.stdout))
}

/// `50:0.01`
fn link(text: &str) -> Result<(u64, f64), String> {
    let parsed = text.split_once(':').and_then(|(ms, loss)| Some((ms.parse().ok()?, loss.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is not like 50:0.01"))
}

pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new(
        2,
        &["link", "tunnel", "p50 alone", "p99 alone", "p50 beside", "p99 beside", "", "bulk Mbit/s"],
    );
    for Row { round_trip_ms, loss, transport, found } in rows {
        let ratio = found.p99_beside / found.p99_alone;
        table.row(vec![
            format!("{round_trip_ms} ms, {} %", loss * 100.0),
            if transport == "quic" { transport.clone() } else { format!("{transport} ({})", found.tcp) },
            format!("{:.0}", found.p50_alone),
            format!("{:.0}", found.p99_alone),
            format!("{:.0}", found.p50_beside),
            format!("{:.0}", found.p99_beside),
            format!("{ratio:.1}x"),
            format!("{:.1}", found.bulk_mbit),
        ]);
    }
    table.render()
}
