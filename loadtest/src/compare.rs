//! `cargo loadtest pass-through` and `tunnel`: culvert beside its peers, under the same load, in turn, so that a machine that
//! drifts drifts for all. Says what was measured, on what, and how noisy it was; judges nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;

use crate::peers::{Choice, Found};
use crate::pinned;
use crate::upstream::Upstream;

pub mod all;
pub mod machine;
pub mod page;
pub mod pass_through;
pub mod sheet;
pub mod starts;
pub mod stream;
pub mod syscalls;
pub mod target;
pub mod tunnels;

pub use machine::Machine;
pub use sheet::Sheet;

/// The target that the load meets without anything in between.
pub const DIRECT: &str = "direct";

#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// How often each target is measured, in turn with the others
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub rounds: u8,
    /// How long each time
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Requests at once, each on a connection of its own, or eight on one of HTTP/2
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1_000], value_parser = clap::value_parser!(u16).range(1..=8_000))]
    pub connections: Vec<u16>,
    /// Requests a second where the rate is fixed
    #[arg(long, default_value_t = 2_000, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(10..=50_000))]
    pub rate: u32,
    /// Connections that are open while nobody asks
    #[arg(long, default_value_t = 1_000, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u16).range(1..=8_000))]
    pub idle: u16,
    /// How large the body is whose transfer is timed
    #[arg(long, default_value_t = 1_024, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub size: u64,
    /// Whom to compare with: all, none, or names that `peers` lists [default: nginx,haproxy or rathole-tcp,rathole-tls]
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<Choice>,
    /// Also draws it
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What was measured, on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub machine: Machine,
    pub rounds: u8,
    pub seconds: u64,
    /// Which server answers.
    pub upstream: String,
    /// Whom the others are compared with, of those that are there.
    pub baselines: Vec<String>,
    pub versions: Vec<String>,
    pub missing: Vec<String>,
    pub sheets: Vec<Sheet>,
}

/// What every measurement stands on.
#[derive(Debug)]
pub struct Ground {
    /// Removed when this is dropped.
    pub directory: TempDir,
    pub upstream: Upstream,
    machine: Machine,
}

impl Effort {
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Ground {
    pub async fn prepare() -> anyhow::Result<Self> {
        let machine = Machine::now();
        descriptors().await;
        pinned::this(pinned::REST).await;
        let directory = TempDir::with_prefix("culvert-loadtest-")?;
        let upstream = Upstream::start(directory.path()).await?;
        Ok(Self { directory, upstream, machine })
    }

    pub fn report(
        &self,
        scenario: &str,
        effort: &Effort,
        baselines: &[&str],
        found: &Found,
        sheets: Vec<Sheet>,
    ) -> Report {
        let measured = |name: &&&str| sheets.iter().any(|sheet| sheet.of(name).is_some());
        Report {
            scenario: scenario.to_owned(),
            machine: self.machine.clone(),
            rounds: effort.rounds,
            seconds: effort.seconds,
            upstream: self.upstream.name().to_owned(),
            baselines: baselines.iter().filter(measured).map(|&name| name.to_owned()).collect(),
            versions: found.versions(),
            missing: found.missing.iter().map(ToString::to_string).collect(),
            sheets,
        }
    }
}

impl Report {
    /// For people at a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for sheet in &self.sheets {
            let table = sheet.table(&self.baselines).render();
            let _ = writeln!(text, "{}\n{table}{}", sheet.name, sheet.failures());
        }
        text.push_str(&self.remarks());
        text.push('\n');
        text
    }

    /// What a reader must know before believing the figures.
    pub fn remarks(&self) -> String {
        let mut remarks = format!("{}; upstream: {}", self.machine, self.upstream);
        for version in &self.versions {
            let _ = write!(remarks, ", {version}");
        }
        if self.rounds == 1 {
            remarks.push_str("\nOne round: how noisy the machine was is not known.");
        } else if let Some(spread) = self.noise() {
            let _ = write!(
                remarks,
                "\nNoise: requests/s without anything in between were up to {:.0} % apart ({} rounds of {} s); a difference \
                 below that is none.",
                spread * 100.0,
                self.rounds,
                self.seconds
            );
        }
        if !self.machine.pinned {
            remarks.push_str(
                "\nNot pinned: the measured processes share their processors with the load (needs taskset and two processors).",
            );
        }
        if !self.missing.is_empty() {
            let _ = write!(
                remarks,
                "\nMISSING, and not compared with: {}. `cargo loadtest peers --install` installs what it can.",
                self.missing.join(", ")
            );
        }
        remarks
    }

    /// How far apart the runs of the same thing were that has none of the measured programs in it, at worst.
    pub fn noise(&self) -> Option<f64> {
        let direct = self.sheets.iter().filter_map(|sheet| sheet.figure(DIRECT, target::RATE));
        direct.map(|figure| figure.spread).max_by(f64::total_cmp)
    }
}

/// As many files as this process may allow itself, and those that it starts: a thousand callers are more than some systems
/// allow at first.
async fn descriptors() {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let Some(most) = files.and_then(|line| line.split_whitespace().nth(1)) else { return };
    let mut command = Command::new("prlimit");
    command.args(["--pid", &std::process::id().to_string(), &format!("--nofile={most}:")]);
    // Without it there is an error when there are too many.
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
}

/// A measurement takes minutes, in which somebody waits.
pub(crate) fn progress(what: &str) {
    let _ = writeln!(io::stderr(), "{what} ...");
}
