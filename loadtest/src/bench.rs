//! Several targets under the same load, one after the other and again, so that a machine that drifts drifts for all.
//! Says what was measured and how noisy it was; judges nothing.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::caller;
use crate::figures::{Figure, Table};
use crate::load::Load;
use crate::pinned;
use crate::process::Process;

/// Connections are opened and caches filled before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub time: Duration,
}

/// What the load is put on.
#[derive(Debug)]
pub struct Target<'a> {
    pub name: String,
    pub address: SocketAddr,
    /// Field lines that decide where its requests go.
    pub fields: Vec<&'a str>,
    /// Whose processor time counts.
    pub processes: Vec<&'a Process>,
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub path: &'static str,
    pub connections: usize,
}

/// What [`crate::upstream`] serves, as the figures name it.
pub const CASES: [Case; 3] = [
    Case { name: "200 B", path: "/small", connections: 64 },
    Case { name: "10 KB", path: "/medium", connections: 64 },
    Case { name: "1 MB", path: "/large", connections: 16 },
];

/// What was measured, on what.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub processors: usize,
    /// The measured processes had a processor of their own.
    pub pinned: bool,
    /// Which target the others are compared with, and its version if it is not ours. None: it is not installed.
    pub baseline: &'static str,
    pub baseline_version: Option<String>,
    /// Which server answers.
    pub upstream: &'static str,
    pub rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub case: &'static str,
    pub target: String,
    pub cpu_us_per_request: Figure,
    pub requests_per_second: Figure,
    pub p50_us: Figure,
    pub p99_us: Figure,
    /// What the processes keep in memory after the last run, in KiB.
    pub memory_kib: u64,
}

/// Every case on every target, `effort.rounds` times in turn.
pub async fn run(targets: &[Target<'_>], cases: &[Case], effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in cases {
        let mut runs: Vec<[Vec<f64>; 4]> = targets.iter().map(|_| Default::default()).collect();
        for _ in 0..effort.rounds {
            for (target, [cpu, rate, p50, p99]) in targets.iter().zip(&mut runs) {
                let load = Load {
                    address: target.address,
                    request: caller::request(case.path, &target.fields),
                    connections: case.connections,
                    time: effort.time,
                };
                Load { time: WARM_UP.min(effort.time), ..load.clone() }.run().await?;
                let before = cpu_of(target)?;
                let outcome = load.run().await?;
                let used = cpu_of(target)?.saturating_sub(before);
                cpu.push(used.as_secs_f64() * 1e6 / (outcome.requests.max(1) as f64));
                rate.push(outcome.per_second());
                p50.push(outcome.latency(0.5).as_secs_f64() * 1e6);
                p99.push(outcome.latency(0.99).as_secs_f64() * 1e6);
            }
        }
        for (target, [cpu, rate, p50, p99]) in targets.iter().zip(runs) {
            rows.push(Row {
                case: case.name,
                target: target.name.clone(),
                cpu_us_per_request: Figure::of(cpu),
                requests_per_second: Figure::of(rate),
                p50_us: Figure::of(p50),
                p99_us: Figure::of(p99),
                memory_kib: target.processes.iter().filter_map(|process| process.memory().ok()).sum(),
            });
        }
    }
    Ok(rows)
}

fn cpu_of(target: &Target<'_>) -> anyhow::Result<Duration> {
    target.processes.iter().map(|process| process.cpu()).sum()
}

impl<'a> Target<'a> {
    pub fn new(name: &str, address: SocketAddr, processes: &[&'a Process]) -> Self {
        Self { name: name.to_owned(), address, fields: Vec::new(), processes: processes.to_vec() }
    }

    #[must_use]
    pub fn with_field(mut self, field: &'a str) -> Self {
        self.fields.push(field);
        self
    }
}

impl Report {
    pub fn new(
        scenario: &'static str,
        baseline: &'static str,
        baseline_version: Option<String>,
        upstream: &'static str,
        rows: Vec<Row>,
    ) -> Self {
        let processors = pinned::processors();
        let pinned = pinned::possible();
        Self { scenario, processors, pinned, baseline, baseline_version, upstream, rows }
    }

    /// What a reader must know before believing the figures.
    pub fn remarks(&self) -> String {
        let mut remarks = format!("{} processors, upstream: {}", self.processors, self.upstream);
        if let Some(version) = &self.baseline_version {
            remarks.push_str(", ");
            remarks.push_str(version);
        }
        if !self.pinned {
            remarks.push_str(
                "\nnot pinned: the measured processes share their processors with the load (needs taskset and two processors)",
            );
        }
        if !self.rows.iter().any(|row| row.target == self.baseline) {
            remarks.push_str(&format!(
                "\nmissing: {0}, so that there is nothing to compare with: apt-get install {0}",
                self.baseline
            ));
        }
        remarks
    }

    /// For people: medians, and for each case how they compare with the baseline.
    pub fn table(&self) -> String {
        let baseline = self.baseline;
        let versus = format!("vs {baseline}");
        let heading = [
            "body",
            "target",
            "CPU us/req",
            "spread",
            versus.as_str(),
            "req/s",
            "p50 us",
            "p99 us",
            "memory MB",
        ];
        let mut table = Table::new(2, &heading);
        for row in &self.rows {
            let base = self.rows.iter().find(|other| other.case == row.case && other.target == baseline);
            let measured = row.cpu_us_per_request.median > 0.0;
            let or_dash = |text: String| if measured { text } else { "-".to_owned() };
            table.row(vec![
                row.case.to_owned(),
                row.target.clone(),
                or_dash(format!("{:.1}", row.cpu_us_per_request.median)),
                or_dash(format!("{:.0} %", row.cpu_us_per_request.spread * 100.0)),
                match base {
                    Some(base) if measured => {
                        format!("{:.2}x", row.cpu_us_per_request.ratio(&base.cpu_us_per_request))
                    }
                    _ => "-".to_owned(),
                },
                format!("{:.0}", row.requests_per_second.median),
                format!("{:.0}", row.p50_us.median),
                format!("{:.0}", row.p99_us.median),
                or_dash(format!("{:.1}", row.memory_kib as f64 / 1024.0)),
            ]);
        }
        table.render()
    }
}
