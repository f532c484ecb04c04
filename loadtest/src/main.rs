//! `cargo demo` and `cargo loadtest`: the command line.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use culvert_loadtest::binaries::Binaries;
use culvert_loadtest::compare::{self, Report, all, page, pass_through, tunnels};
use culvert_loadtest::peers::install;
use culvert_loadtest::{bulk, crowd, demo, guard, idle, link, lossy, scale, soak, stalled, storm};
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
    /// What a request costs that nobody has claimed, beside other proxies
    PassThrough(compare::Effort),
    /// What a request costs that a developer has claimed, over QUIC and over TLS, beside other tunnels
    Tunnel(compare::Effort),
    /// Everything that docs/performance.md shows, in one go
    All(compare::Effort),
    /// Writes what `all` has found into docs/performance.md, and draws it
    Page(page::Arguments),
    /// Whom to compare with, and which of them are here
    Peers(install::Arguments),
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
    /// What a request costs among very many claims, and while they come and go
    Scale(scale::Effort),
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
        Command::PassThrough(effort) => {
            let report = pass_through::run(&all.binaries().await?, &effort).await?;
            drawn(&report, &effort)?;
            all.print(&report, || report.text())
        }
        Command::Tunnel(effort) => {
            let report = tunnels::run(&all.binaries().await?, &effort).await?;
            drawn(&report, &effort)?;
            all.print(&report, || report.text())
        }
        Command::All(effort) => {
            let found = all::run(&all.binaries().await?, &effort).await?;
            all.print(&found, || found.text())
        }
        Command::Page(arguments) => page::write(&arguments),
        Command::Peers(arguments) => {
            let peers = install::run(arguments).await?;
            all.print(&peers, || install::table(&peers))
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
            crowd::with_fresh_pages()?;
            let report = storm::run(&all.binaries().await?, effort).await?;
            all.print(&report, || report.table())?;
            report.verdict()
        }
        Command::Idle(effort) => {
            crowd::with_fresh_pages()?;
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
        Command::Scale(effort) => {
            let report = scale::run(&all.binaries().await?, &effort).await?;
            all.print(&report, || report.table())
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

fn drawn(report: &Report, effort: &compare::Effort) -> anyhow::Result<()> {
    match &effort.svg {
        Some(file) => {
            std::fs::write(file, page::drawn(report)).with_context(|| format!("writing {}", file.display()))
        }
        None => Ok(()),
    }
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
