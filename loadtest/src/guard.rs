//! `cargo loadtest guard`: what a request costs in instructions, allocations and system calls, which a busy machine does not
//! change, held against what it cost when the baseline was written. One caller, one request after the other; the programs are the
//! ones that are shipped, and run under valgrind's callgrind for the first two figures and under strace for the third.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::caller::{self, Caller};
use crate::figures::Table;
use crate::process::Process;
use crate::stack::{Stack, Where};
use crate::upstream::Upstream;

mod callgrind;

/// Before anything counts: connections are there, and buffers have their size.
const WARM_UP: u32 = 100;
/// What is counted.
const REQUESTS: u32 = 500;

/// What a figure may be more than the baseline's, as a part of it: compilers and libraries move a little.
const INSTRUCTIONS: f64 = 0.08;
const ALLOCATIONS: f64 = 0.08;
/// Timers and acknowledgements come in between as it happens.
const SYSCALLS: f64 = 0.25;
/// What is less than one in so many requests is chance.
const CHANCE: f64 = 0.2;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guard.json");

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Write the baseline instead of comparing with it
    #[arg(long)]
    pub update: bool,
}

/// One program on one path, for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub instructions: f64,
    pub allocations: f64,
    pub syscalls: f64,
}

/// By path and program.
pub type Costs = BTreeMap<String, Cost>;

/// What was measured, beside what it was.
#[derive(Debug, Serialize)]
pub struct Report {
    pub costs: Costs,
    pub baseline: Costs,
}

/// A path that a request takes.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    target: &'static str,
    /// The claim's value, and the client's `--transport`.
    transport: Option<&'static str>,
}

const CASES: [Case; 4] = [
    Case { name: "upstream, 200 B", target: "/small", transport: None },
    Case { name: "upstream, 10 KB", target: "/medium", transport: None },
    Case { name: "quic, 200 B", target: "/small", transport: Some("quic") },
    Case { name: "tls, 200 B", target: "/small", transport: Some("tls") },
];

/// Measures, and compares with the baseline, or writes it.
pub async fn run(shipped: &Binaries, effort: Effort) -> anyhow::Result<Report> {
    for tool in ["valgrind", "callgrind_control", "strace"] {
        let found = Command::new(tool).arg("--version").output().await;
        found.with_context(|| format!("there is no {tool}: apt-get install valgrind strace"))?;
    }
    let directory = TempDir::with_prefix("culvert-guard-")?;
    let upstream = Upstream::start(directory.path()).await?;
    let mut costs = Costs::new();
    let counted = callgrind::wrapped(shipped, directory.path())?;
    for (tool, binaries) in [(Tool::Callgrind, &counted), (Tool::Strace, shipped)] {
        let stack = Stack::before(binaries, &upstream.url(), Where::Anywhere).await?;
        let developer = stack.developer("alice").await?;
        let app = upstream.address.to_string();
        for case in CASES {
            let client = match case.transport {
                Some(transport) => {
                    let steered = format!("x-user={transport}");
                    let words = ["--transport", transport, "orders", &app, &steered];
                    Some(stack.intercept_quietly(&developer, &words).await?)
                }
                None => None,
            };
            let programs = [("relay", Some(&stack.relay)), ("client", client.as_ref())];
            let programs: Vec<_> =
                programs.iter().filter_map(|(name, process)| Some((*name, (*process)?))).collect();
            let mut caller = Caller::connect(stack.door).await?;
            case.ask(&mut caller, WARM_UP).await?;
            let watched: Vec<_> = tool.watch(&programs, directory.path()).await?;
            case.ask(&mut caller, REQUESTS).await?;
            for ((program, process), watch) in programs.iter().zip(watched) {
                let cost = costs.entry(format!("{}: {program}", case.name)).or_default();
                watch.enter(process, directory.path(), cost).await?;
            }
        }
    }
    if effort.update {
        fs::write(BASELINE, format!("{}\n", serde_json::to_string_pretty(&costs)?))
            .context("writing the baseline")?;
    }
    let baseline =
        fs::read(BASELINE).context("reading the baseline: `cargo loadtest guard --update` makes one")?;
    Ok(Report { costs, baseline: serde_json::from_slice(&baseline).context("reading the baseline")? })
}

impl Case {
    async fn ask(&self, caller: &mut Caller, times: u32) -> anyhow::Result<()> {
        let steering = self.transport.map(|transport| format!("x-user: {transport}"));
        let request = caller::request(self.target, &steering.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..times {
            let answer = caller.exchange(&request).await?;
            ensure!(answer.status() == 200, "{}: answered {}", self.name, answer.status());
        }
        Ok(())
    }
}

/// What counts.
#[derive(Clone, Copy, Debug)]
enum Tool {
    Callgrind,
    Strace,
}

/// One that counts what a program does.
#[derive(Debug)]
enum Watch {
    Callgrind,
    /// And where it will say what it counted.
    Strace(Box<Process>, PathBuf),
}

impl Tool {
    async fn watch(self, programs: &[(&str, &Process)], directory: &Path) -> anyhow::Result<Vec<Watch>> {
        let mut watches = Vec::with_capacity(programs.len());
        for (name, process) in programs {
            watches.push(match self {
                Self::Callgrind => {
                    callgrind::switch(process, true).await?;
                    Watch::Callgrind
                }
                Self::Strace => {
                    let mut strace = Command::new("strace");
                    let output = directory.join(name);
                    strace.args(["-f", "-c", "-p", &process.pid().to_string(), "-o"]).arg(&output);
                    let strace = Process::start("strace", strace)?;
                    strace.line(" attached").await?;
                    Watch::Strace(Box::new(strace), output)
                }
            });
        }
        Ok(watches)
    }
}

impl Watch {
    /// Ends it, and enters what it has counted.
    async fn enter(self, process: &Process, directory: &Path, cost: &mut Cost) -> anyhow::Result<()> {
        let each = |count: u64| count as f64 / f64::from(REQUESTS);
        match self {
            Self::Callgrind => {
                let work = callgrind::work(process, directory).await?;
                callgrind::switch(process, false).await?;
                (cost.instructions, cost.allocations) = (each(work.instructions), each(work.allocations));
            }
            Self::Strace(strace, output) => {
                strace.signal("INT").await?;
                strace.ended().await?;
                cost.syscalls = each(calls(&fs::read_to_string(output)?)?);
            }
        }
        Ok(())
    }
}

/// The total of `strace -c`: share, seconds, microseconds a call, calls, and errors if there were some.
fn calls(summary: &str) -> anyhow::Result<u64> {
    let total = summary.lines().rfind(|line| line.ends_with(" total")).context("strace gives no total")?;
    let calls = total.split_whitespace().nth(3).context("strace's total has no calls")?;
    calls.parse().with_context(|| format!("reading `{total}`"))
}

impl Cost {
    /// Each figure: its name, what it is, and what it may be more than the baseline's, as a part of it.
    fn figures(&self) -> [(&'static str, f64, f64); 3] {
        [
            ("instructions", self.instructions, INSTRUCTIONS),
            ("allocations", self.allocations, ALLOCATIONS),
            ("system calls", self.syscalls, SYSCALLS),
        ]
    }

    /// What it is too much of, beside what it was.
    fn exceeds(&self, baseline: &Self) -> Vec<String> {
        let pairs = self.figures().into_iter().zip(baseline.figures());
        pairs
            .filter(|((_, now, more), (_, before, _))| *now > before * (1.0 + more) + CHANCE)
            .map(|((name, now, _), (_, before, _))| {
                format!("{now:.1} {name} a request, where it was {before:.1}")
            })
            .collect()
    }
}

impl Report {
    pub fn table(&self) -> String {
        let mut table =
            Table::new(1, &["a request", "instructions", "was", "allocations", "was", "system calls", "was"]);
        for (name, cost) in &self.costs {
            let before = self.baseline.get(name).map(Cost::figures);
            let mut cells = vec![name.clone()];
            for (at, (_, now, _)) in cost.figures().into_iter().enumerate() {
                let before = before.and_then(|figures| Some(figures.get(at)?.1));
                let digits = if at == 0 { 0 } else { 1 };
                cells.push(format!("{now:.digits$}"));
                cells.push(before.map_or_else(|| "-".to_owned(), |before| format!("{before:.digits$}")));
            }
            table.row(cells);
        }
        table.render()
    }

    /// An error where a request costs more than it did.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let more: Vec<_> = self
            .costs
            .iter()
            .flat_map(|(name, cost)| {
                let said = match self.baseline.get(name) {
                    Some(baseline) => cost.exceeds(baseline),
                    None => vec!["it is not in the baseline".to_owned()],
                };
                said.into_iter().map(move |said| format!("{name}: {said}"))
            })
            .collect();
        ensure!(
            more.is_empty(),
            "a request costs more than it did:\n{}\nif it is worth that, write the new baseline with `cargo loadtest guard --update` and say why in the commit",
            more.join("\n")
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_costs_more_than_it_did_is_told_of() {
        let before = Cost { instructions: 20_000.0, allocations: 2.0, syscalls: 4.0 };
        assert!(Cost { instructions: 21_000.0, ..before }.exceeds(&before).is_empty());
        assert!(Cost { instructions: 10_000.0, ..before }.exceeds(&before).is_empty());
        let said = Cost { instructions: 22_000.0, allocations: 3.0, syscalls: 5.3 }.exceeds(&before);
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(said[0], "22000.0 instructions a request, where it was 20000.0");
    }

    #[test]
    fn the_total_of_strace_is_read_with_and_without_errors() {
        let row = "% time     seconds  usecs/call     calls    errors syscall\n";
        assert_eq!(
            calls(&format!("{row}100.00    0.000001           0       124           total\n")).unwrap(),
            124
        );
        assert_eq!(
            calls(&format!("{row}100.00    0.000001           0       124        98 total\n")).unwrap(),
            124
        );
        assert!(calls(row).is_err());
    }
}
