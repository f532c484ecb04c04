//! `cargo loadtest link …`: the command line, and what a running link is told on its standard input.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Link, Settings, check, probe};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make two devices and carry packets between them until a signal comes; wants root
    ///
    /// Prints `ready` once they exist, for whoever moves them into network namespaces. Lines on the standard input change
    /// it: `outage`, `heal`, `address 10.0.0.9` (of the near end, as the far one sees it), `delay MS`, `jitter MS`,
    /// `loss SHARE`, `rate MBIT`.
    Run(Running),
    /// Measure links with ping, UDP and TCP, and print what was wanted beside what was found; wants root
    Check,
    /// One end of a measurement
    #[command(hide = true, subcommand)]
    Probe(Probe),
}

#[derive(Clone, Debug, Args)]
pub struct Running {
    /// The device whose address can change
    #[arg(long, default_value = "near0", value_name = "DEVICE")]
    near: String,
    /// The other one
    #[arg(long, default_value = "far0", value_name = "DEVICE")]
    far: String,
    /// One way
    #[arg(long, default_value_t = 25.0, value_name = "MS", value_parser = not_negative)]
    delay: f64,
    /// Up to so much more, at random
    #[arg(long, default_value_t = 0.0, value_name = "MS", value_parser = not_negative)]
    jitter: f64,
    /// Of packets, each way: 0.01 is one in a hundred
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = not_negative)]
    loss: f64,
    /// Each way; as fast as it goes by default
    #[arg(long, value_name = "MBIT", value_parser = not_negative)]
    rate: Option<f64>,
    /// How long a packet may wait for the rate
    #[arg(long, default_value_t = 100.0, value_name = "MS", value_parser = not_negative)]
    queue: f64,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Probe {
    Serve,
    Loss { peer: IpAddr },
    Rate { peer: IpAddr },
}

pub async fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Run(running) => running.carry().await,
        Action::Check => {
            let rows = check::run().await?;
            print(&check::table(&rows))?;
            match rows.iter().find(|row| !row.holds) {
                None => Ok(()),
                Some(row) => bail!("{}: wanted {}, found {}", row.what, row.wanted, row.found),
            }
        }
        Action::Probe(Probe::Serve) => probe::serve().await,
        Action::Probe(Probe::Loss { peer }) => print(&format!("{}\n", probe::loss(peer).await?)),
        Action::Probe(Probe::Rate { peer }) => print(&format!("{}\n", probe::rate(peer).await?)),
    }
}

impl Running {
    async fn carry(self) -> anyhow::Result<()> {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let settings = Settings {
            delay: milliseconds(self.delay),
            jitter: milliseconds(self.jitter),
            loss: self.loss,
            rate: self.rate.map(|mbit| mbit * 1e6),
            queue: milliseconds(self.queue),
        };
        let link = Link::between(&self.near, &self.far, settings)?;
        print("ready\n")?;
        let told = async {
            let mut lines = lines();
            while let Some(line) = lines.recv().await {
                let done = tell(&link, &line);
                let said = done.map_or_else(|error| format!("error: {error:#}\n"), |()| format!("{line}\n"));
                print(&said)?;
            }
            // Whoever has nothing to say wants the link all the same.
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            told = told => told,
            _ = interrupted.recv() => Ok(()),
            _ = terminated.recv() => Ok(()),
        }
    }
}

/// What is said on the standard input. A thread reads it, which nothing can end but the end of the program.
fn lines() -> mpsc::Receiver<String> {
    let (said, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if said.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn tell(link: &Link, line: &str) -> anyhow::Result<()> {
    let (verb, value) = line.trim().split_once(' ').unwrap_or_else(|| (line.trim(), ""));
    let number = || not_negative(value).map_err(anyhow::Error::msg);
    let settings = link.settings();
    match verb {
        "outage" => link.outage(true),
        "heal" => link.outage(false),
        "address" => link.appear_as(value.parse().context("reading an address")?),
        "delay" => link.set(Settings { delay: milliseconds(number()?), ..settings }),
        "jitter" => link.set(Settings { jitter: milliseconds(number()?), ..settings }),
        "loss" => link.set(Settings { loss: number()?, ..settings }),
        "rate" => link.set(Settings { rate: Some(number()? * 1e6), ..settings }),
        _ => bail!("nothing is called `{verb}`"),
    }
    Ok(())
}

/// Bounded, so that no time overflows: an hour is longer than any link.
fn milliseconds(number: f64) -> Duration {
    Duration::from_secs_f64(number.min(3_600_000.0) / 1e3)
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("`{text}` is no number from 0 on")),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
