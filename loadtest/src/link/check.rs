//! `cargo loadtest link check`: what was asked of a link beside what ping, UDP and TCP find, each end in a network namespace
//! of its own.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::process::Command;

use super::namespaces::{FAR, Namespaces};
use super::{Link, Settings};
use crate::figures::Table;
use crate::process::Process;

/// What the near end becomes when its address changes: of the same network, so that it is routed.
const ELSEWHERE: &str = "10.99.77.9";

const PLAIN: Settings = Settings {
    delay: Duration::from_millis(25),
    jitter: Duration::ZERO,
    loss: 0.0,
    rate: Some(100e6),
    queue: Duration::from_millis(100),
};

/// What is asked, and how far off it may be found: timers are a millisecond coarse, dice are dice, headers are part of a rate.
const ROUND_TRIP: f64 = 5.0;
const LOSS: f64 = 0.6;
const RATE: f64 = 0.80;

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: &'static str,
    pub wanted: f64,
    pub found: f64,
    pub holds: bool,
}

/// One setting after the other, on one link.
pub async fn run() -> anyhow::Result<Vec<Row>> {
    let namespaces = Namespaces::make()?;
    let link = Link::between(&namespaces.near, &namespaces.far, PLAIN)?;
    namespaces.join()?;
    let this = std::env::current_exe().context("finding this program")?;
    let mut serving = Command::new("ip");
    serving.args(["netns", "exec", &namespaces.far]).arg(&this).args(["link", "probe", "serve"]);
    let _peer = Process::start("the peer", serving)?;

    let mut rows = Vec::new();
    let mut row = |what, wanted, found, holds| rows.push(Row { what, wanted, found, holds });
    let found = namespaces.ping().await?;
    row("round trip of 50 ms, in ms", 50.0, found, (found - 50.0).abs() < ROUND_TRIP);
    let found = namespaces.probe(&this, "rate").await? / 1e6;
    row("TCP at 100 Mbit/s, in Mbit/s", 100.0, found, (100.0 * RATE..=100.0).contains(&found));
    link.set(Settings { rate: Some(20e6), ..PLAIN });
    let found = namespaces.probe(&this, "rate").await? / 1e6;
    row("TCP at 20 Mbit/s, in Mbit/s", 20.0, found, (20.0 * RATE..=20.0).contains(&found));
    for percent in [1.0, 5.0] {
        link.set(Settings { loss: percent / 100.0, rate: None, ..PLAIN });
        let found = namespaces.probe(&this, "loss").await? * 100.0;
        row("UDP lost one way, in %", percent, found, (found - percent).abs() < LOSS * percent.sqrt());
    }
    let jitter = Duration::from_millis(20);
    link.set(Settings { delay: Duration::from_millis(40), jitter, ..PLAIN });
    let found = namespaces.ping().await?;
    row("round trip of 80 to 120 ms, in ms", 100.0, found, (found - 100.0).abs() < 3.0 * ROUND_TRIP);
    link.set(PLAIN);
    link.outage(true);
    let found = namespaces.answered().await?;
    row("pings answered in an outage", 0.0, found, found == 0.0);
    link.outage(false);
    link.appear_as(ELSEWHERE.parse()?);
    let found = namespaces.answered().await?;
    row("pings answered from another address, of 20", 20.0, found, (found - 20.0).abs() < 0.5);
    let found = namespaces.probe(&this, "rate").await? / 1e6;
    row("TCP from there, in Mbit/s", 100.0, found, (100.0 * RATE..=100.0).contains(&found));
    Ok(rows)
}

pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new(1, &["what", "wanted", "found", ""]);
    for row in rows {
        let holds = if row.holds { "ok" } else { "NO" };
        table.row(vec![
            row.what.to_owned(),
            format!("{:.1}", row.wanted),
            format!("{:.2}", row.found),
            holds.to_owned(),
        ]);
    }
    table.render()
}

impl Namespaces {
    /// The mean round trip, in ms.
    async fn ping(&self) -> anyhow::Result<f64> {
        let said = self.pinged().await?;
        // rtt min/avg/max/mdev = 50.1/50.4/51.0/0.2 ms
        let mean = said.rsplit_once(" = ").and_then(|(_, times)| times.split('/').nth(1)?.parse().ok());
        mean.with_context(|| format!("reading what ping said: {said}"))
    }

    /// Of 20.
    async fn answered(&self) -> anyhow::Result<f64> {
        let said = self.pinged().await?;
        let received = said.split(", ").find_map(|part| part.strip_suffix(" received")?.trim().parse().ok());
        received.with_context(|| format!("reading what ping said: {said}"))
    }

    async fn pinged(&self) -> anyhow::Result<String> {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.near, "ping", "-q", "-c", "20", "-i", "0.1", "-W", "1", FAR]);
        let said =
            ping.kill_on_drop(true).output().await.context("running ping (apt-get install iputils-ping)")?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    async fn probe(&self, this: &std::path::Path, what: &str) -> anyhow::Result<f64> {
        let mut probe = Command::new("ip");
        probe.args(["netns", "exec", &self.near]).arg(this).args(["link", "probe", what, FAR]);
        let ended = Process::start("a probe", probe)?.ended().await?;
        if ended.code != Some(0) {
            bail!("measuring {what}: {}", ended.stderr);
        }
        ended.stdout.trim().parse().with_context(|| format!("reading {}", ended.stdout))
    }
}
