//! `cargo demo` and `cargo loadtest`: the command line.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use culvert_loadtest::bench::{Effort, Report};
use culvert_loadtest::binaries::Binaries;
use culvert_loadtest::{bulk, demo, guard, idle, link, lossy, scenario, soak, stalled, storm};
use serde::Serialize;

/// Shows what culvert does, and what it costs.
#[derive(Debug, Parser)]
#[command(name = "culvert-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    all: All,
}

/// What every measurement takes.
#[derive(Debug, Args)]
struct All {
    /// Where culvert and culvert-relay are, instead of having cargo make them
    #[arg(long, global = true, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
    /// How the figures are printed
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A relay, a developer, an upstream and an app in one process, and a few requests through them
    Demo(demo::Arguments),
    /// What a request costs that nobody has claimed, beside nginx
    PassThrough(Measuring),
    /// What a request costs that a developer has claimed, over QUIC and over TLS
    Tunnel(Measuring),
    /// Large bodies up and down on each way: equal by checksum, and kept by nobody
    Bulk(Amount),
    /// A network and a developer as they are, which no caller may notice: nothing fails, nothing runs twice
    Soak(soak::Effort),
    /// A relay that is killed under thousands of tunnels and started again: how long until all are served
    Storm(storm::Effort),
    /// What thousands of tunnels cost a relay on which nothing happens
    Idle(idle::Effort),
    /// What a request costs in instructions, allocations and system calls, beside what it did: more is an error
    Guard(guard::Effort),
    /// Large bodies on one tunnel that nobody takes: what they cost in memory, and whom they keep waiting
    Stalled(stalled::Effort),
    /// Small requests beside a bulk download on links that lose packets; wants root
    Lossy(lossy::Effort),
    /// One end of it
    #[command(hide = true, subcommand)]
    LossyInside(lossy::inside::Action),
    /// A link of any length, loss and rate between two network namespaces
    #[command(subcommand)]
    Link(link::command::Action),
}

#[derive(Clone, Copy, Debug, Args)]
struct Amount {
    /// How large each body is
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
}

#[derive(Clone, Copy, Debug, Args)]
struct Measuring {
    /// How often each target is measured, in turn with the others
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// How long each time
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, all } = Arguments::parse();
    let Err(error) = Box::pin(run(command, all)).await else { return ExitCode::SUCCESS };
    // Nobody may be listening any more, which is no reason to fail in another way.
    let _ = writeln!(io::stderr(), "culvert-loadtest: {error:#}");
    ExitCode::FAILURE
}

/// Runs one of them, prints what was found, and fails where that is not what is claimed.
async fn run(command: Command, all: All) -> anyhow::Result<()> {
    match command {
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::PassThrough(measuring) => {
            let report = scenario::pass_through(all.binaries().await?, measuring.effort()).await?;
            all.print(&report, || shown(&report))
        }
        Command::Tunnel(measuring) => {
            let report = scenario::tunnel(all.binaries().await?, measuring.effort()).await?;
            all.print(&report, || shown(&report))
        }
        Command::Bulk(amount) => {
            let rows = bulk::run(&all.binaries().await?, amount.size << 20).await?;
            all.print(&rows, || bulk::table(&rows))?;
            match rows.iter().find(|row| !row.holds()) {
                None => Ok(()),
                Some(row) => bail!("{}, {}: not equal, or kept in memory", row.way, row.direction),
            }
        }
        Command::Soak(effort) => {
            let report = soak::run(&all.binaries().await?, effort).await?;
            all.print(&report, || report.text())?;
            report.verdict()
        }
        Command::Storm(effort) => {
            let report = storm::run(&all.binaries().await?, effort).await?;
            all.print(&report, || report.table())?;
            report.verdict()
        }
        Command::Idle(effort) => {
            let rows = idle::run(&all.binaries().await?, &effort).await?;
            all.print(&rows, || idle::table(&rows))?;
            match rows.iter().find(|row| !row.holds()) {
                None => Ok(()),
                Some(row) => bail!("{}: {:.1} KiB each", row.transport, row.kib_each),
            }
        }
        Command::Guard(effort) => {
            let report = guard::run(&all.binaries().await?, effort).await?;
            all.print(&report, || report.table())?;
            report.verdict()
        }
        Command::Stalled(effort) => {
            let rows = stalled::run(&all.binaries().await?, effort).await?;
            all.print(&rows, || stalled::table(&rows))?;
            match rows.iter().find(|row| !row.holds()) {
                None => Ok(()),
                Some(row) => bail!("{}, {}: more is kept than may be", row.transport, row.direction),
            }
        }
        Command::Lossy(effort) => {
            let rows = lossy::run(&all.binaries().await?, &effort).await?;
            all.print(&rows, || lossy::table(&rows))?;
            match rows.iter().find(|row| !row.holds()) {
                None => Ok(()),
                Some(row) => {
                    bail!("{}, {} ms: small requests wait for the bulk", row.transport, row.round_trip_ms)
                }
            }
        }
        Command::LossyInside(action) => lossy::inside::run(action).await,
        Command::Link(action) => link::command::run(action).await,
    }
}

fn shown(report: &Report) -> String {
    format!("{}\n{}\n", report.table(), report.remarks())
}

impl All {
    async fn binaries(&self) -> anyhow::Result<Binaries> {
        match &self.programs {
            Some(directory) => Binaries::there(directory),
            None => Binaries::shipped().await,
        }
    }

    fn print<F: Serialize>(&self, figures: &F, table: impl FnOnce() -> String) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Table => write!(stdout, "{}", table())?,
            Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(figures)?)?,
        }
        Ok(())
    }
}

impl Measuring {
    fn effort(self) -> Effort {
        Effort { rounds: self.rounds.into(), time: Duration::from_secs(self.seconds) }
    }
}
