//! `cargo loadtest all`: everything that docs/performance.md needs, one after the other. What cannot be measured here is said and
//! left out.

use std::env;
use std::process::Stdio;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::{Effort, Report, Sheet, pass_through, progress, tunnels};
use crate::binaries::Binaries;
use crate::figures::Figure;
use crate::{idle, lossy, scale};

/// Claims on a relay, and how many of them are where nothing is to be seen of the others.
const CLAIMS: [u32; 3] = [10, 1_000, 10_000];
/// Tunnels on a relay, for as many as effort is made for.
const TUNNELS: [u16; 3] = [1, 100, 5_000];
/// Idle connections that show that effort is made for all of those.
const THOROUGH: u16 = 1_000;

pub const EACH: &str = "KiB each";
pub const BUSY: &str = "busy %";
const PASSED: &str = "µs/request passed on";
const CLAIMED: &str = "µs/request claimed";

/// Of the tunnels on which nothing happens, as rows of their sheet.
pub fn idle_row(transport: &str, tunnels: u16) -> String {
    format!("{tunnels} over {transport}")
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct All {
    pub pass_through: Report,
    pub tunnel: Report,
    pub idle: Sheet,
    pub claims: Sheet,
    /// Without: nobody may make links here.
    pub links: Option<Sheet>,
}

pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<All> {
    let pass_through = pass_through::run(binaries, effort).await?;
    let tunnel = tunnels::run(binaries, effort).await?;
    progress("tunnels on which nothing happens");
    let idle = idle_tunnels(binaries, effort).await?;
    progress("claims");
    let among = scale::Effort {
        claims: CLAIMS.to_vec(),
        rounds: effort.rounds,
        seconds: effort.seconds,
        churn: 1_000,
        rate: 1_000,
    };
    let claims = scale::run(binaries, &among).await?;
    let links =
        if linkable().await { Some(links(&lossy::run(binaries, &over(effort)).await?)) } else { None };
    Ok(All { pass_through, tunnel, idle: kept(&idle), claims: claimed(&claims), links })
}

/// In a process of its own: thousands of clients want their memory handled in another way than what is measured here.
async fn idle_tunnels(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Vec<idle::Row>> {
    let most = if effort.idle < THOROUGH { effort.idle } else { u16::MAX };
    let tunnels: Vec<_> = TUNNELS.iter().map(|tunnels| (*tunnels).min(most).to_string()).collect();
    let mut command = Command::new(env::current_exe()?);
    command.args(["idle", "--output", "json", "--tunnels", &tunnels.join(",")]).stderr(Stdio::inherit());
    command.arg("--programs").arg(binaries.relay.parent().context("a program without a directory")?);
    let output = command.output().await?;
    serde_json::from_slice(&output.stdout).context("what `idle` has found")
}

/// A lossy link needs longer to show its percentiles.
fn over(effort: &Effort) -> lossy::Effort {
    progress("lossy links");
    let seconds = (effort.seconds * 5 / 2).max(2);
    let transports = ["quic", "tls"].map(str::to_owned).to_vec();
    lossy::Effort { seconds, rounds: 1, transports, links: Vec::new() }
}

/// Links stand between network namespaces, which not everybody may make.
async fn linkable() -> bool {
    let made = Command::new("unshare").args(["-n", "true"]).stderr(Stdio::null()).status().await;
    made.is_ok_and(|made| made.success())
}

impl All {
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}", self.pass_through.text(), self.tunnel.text());
        for sheet in [&self.idle, &self.claims].into_iter().chain(&self.links) {
            text.push_str(&format!("\n{}\n{}", sheet.name, sheet.table(&[]).render()));
        }
        if self.links.is_none() {
            text.push_str("\nMISSING: lossy links, which want root\n");
        }
        text
    }
}

fn kept(rows: &[idle::Row]) -> Sheet {
    let mut sheet = Sheet::new(
        "Tunnels on which nothing happens",
        &[EACH, "MB at rest", "MB with them", BUSY, PASSED, CLAIMED],
    );
    for row in rows {
        let megabytes = |kib: u64| kib as f64 / 1024.0;
        let sums =
            [row.kib_each, megabytes(row.at_rest_kib), megabytes(row.memory_kib), row.processor * 100.0];
        let mut figures = sums.map(|sum| Figure::of(vec![sum])).to_vec();
        figures.extend([row.passed_cpu_us.clone(), row.claimed_cpu_us.clone()]);
        sheet.push(idle_row(&row.transport, row.tunnels), figures);
    }
    sheet
}

fn claimed(report: &scale::Report) -> Sheet {
    let columns = [CLAIMED, PASSED, EACH, "p99 µs", "p99 µs with 1,000 claims/s coming and going"];
    let mut sheet = Sheet::new("Among so many claims", &columns);
    for row in &report.rows {
        let figures = [
            row.claimed_cpu_us.clone(),
            row.passed_cpu_us.clone(),
            Figure::of(vec![row.kib_each]),
            row.calm_p99_us.clone(),
            row.churned_p99_us.clone(),
        ];
        sheet.push(format!("{} claims", row.claims), figures.to_vec());
    }
    sheet
}

fn links(rows: &[lossy::Row]) -> Sheet {
    let columns =
        ["p99 ms beside a download", "p50 ms beside it", "p50 ms alone", "p99 ms alone", "download Mbit/s"];
    let mut sheet = Sheet::new("32 callers of small requests on a lossy link of 100 Mbit/s", &columns);
    for row in rows {
        let target = format!("{}, {} ms, {} %", row.transport, row.round_trip_ms, row.loss * 100.0);
        let found = &row.found;
        sheet.add(
            &target,
            [found.p99_beside, found.p50_beside, found.p50_alone, found.p99_alone, found.bulk_mbit],
        );
    }
    sheet
}
