//! `cargo demo` and `cargo loadtest`: the command line.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use culvert_loadtest::bench::{Effort, Report};
use culvert_loadtest::binaries::Binaries;
use culvert_loadtest::{bulk, demo, guard, link, scenario, soak};

/// Shows what culvert does, and what it costs.
#[derive(Debug, Parser)]
#[command(name = "culvert-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
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
    Soak(Soaking),
    /// What a request costs in instructions, allocations and system calls, beside what it did: more is an error
    Guard(Guarding),
    /// A link of any length, loss and rate between two network namespaces
    #[command(subcommand)]
    Link(link::command::Action),
}

#[derive(Clone, Copy, Debug, Args)]
struct Amount {
    /// How large each body is
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Args)]
struct Soaking {
    #[command(flatten)]
    effort: soak::Effort,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Args)]
struct Guarding {
    /// Write the baseline instead of comparing with it
    #[arg(long)]
    update: bool,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Args)]
struct Measuring {
    /// How often each target is measured, in turn with the others
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// How long each time
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
        Command::PassThrough(measuring) => {
            let report = Box::pin(scenario::pass_through(measuring.effort())).await;
            report.and_then(|report| measuring.print(&report))
        }
        Command::Tunnel(measuring) => {
            let report = Box::pin(scenario::tunnel(measuring.effort())).await;
            report.and_then(|report| measuring.print(&report))
        }
        Command::Bulk(amount) => Box::pin(amount.send()).await,
        Command::Soak(soaking) => Box::pin(soaking.run()).await,
        Command::Guard(guarding) => Box::pin(guarding.run()).await,
        Command::Link(action) => Box::pin(link::command::run(action)).await,
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    // Nobody may be listening any more, which is no reason to fail in another way.
    let _ = writeln!(io::stderr(), "culvert-loadtest: {error:#}");
    ExitCode::FAILURE
}

impl Amount {
    async fn send(self) -> anyhow::Result<()> {
        let rows = bulk::run(&Binaries::shipped().await?, self.size << 20).await?;
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Table => write!(stdout, "{}", bulk::table(&rows))?,
            Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&rows)?)?,
        }
        match rows.iter().find(|row| !row.holds()) {
            None => Ok(()),
            Some(row) => bail!("{}, {}: not equal, or kept in memory", row.way, row.direction),
        }
    }
}

impl Guarding {
    async fn run(self) -> anyhow::Result<()> {
        let report = guard::run(self.update).await?;
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Table => write!(stdout, "{}", report.table())?,
            Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
        }
        report.verdict()
    }
}

impl Soaking {
    async fn run(self) -> anyhow::Result<()> {
        let report = soak::run(&Binaries::shipped().await?, self.effort).await?;
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Table => write!(stdout, "{}", report.text())?,
            Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
        }
        report.verdict()
    }
}

impl Measuring {
    fn effort(self) -> Effort {
        Effort { rounds: self.rounds.into(), time: Duration::from_secs(self.seconds) }
    }

    fn print(self, report: &Report) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match self.output {
            Output::Table => write!(stdout, "{}\n{}\n", report.table(), report.remarks())?,
            Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(report)?)?,
        }
        Ok(())
    }
}
