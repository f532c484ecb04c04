//! `cargo loadtest scale`: what a request costs among few claims and among very many, what each of those keeps in memory,
//! and what callers notice while claims come and go.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use culvert_protocol::intercept::{Intercept, Matcher};
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::binaries::Binaries;
use crate::caller;
use crate::figures::{Figure, Table};
use crate::load::Load;
use crate::open::Open;
use crate::pinned;
use crate::process::Process;
use crate::stack::{Stack, Where};
use crate::upstream::Upstream;
use crate::world;

mod churn;
mod claimants;

use churn::Churn;
use claimants::{CHANGES, Claimant, OF_ONE};

/// Claims that a relay takes without being told.
const OF_A_RELAY: u32 = 10_000;
/// Callers at once where the cost of a request is measured.
const CONNECTIONS: usize = 64;
/// Connections are opened and caches filled before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// Handshakes are over and what they took is given back.
const SETTLED: Duration = Duration::from_secs(3);
/// For all claims to be in force, on a busy machine.
const ANNOUNCED: Duration = Duration::from_secs(300);
/// For a relay to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// How many claims there are, on a relay of its own each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub claims: Vec<u32>,
    /// How often each relay is measured, in turn with the others
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub rounds: u8,
    /// How long each time
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Claims that come, and go, in a second while callers are served
    #[arg(long, default_value_t = 1_000, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub churn: u32,
    /// Requests of those callers
    #[arg(long, default_value_t = 1_000, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(100..=20_000))]
    pub rate: u32,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub processors: usize,
    /// The relays had a processor of their own.
    pub pinned: bool,
    pub upstream: &'static str,
    /// Claims that came, and went, in a second; requests meanwhile.
    pub churn: u32,
    pub rate: u32,
    pub rows: Vec<Row>,
}

#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub claims: u32,
    pub tunnels: usize,
    /// For all of them to be in force.
    pub announced_s: f64,
    /// Of the relay, for one of them.
    pub announce_cpu_us: f64,
    /// What one keeps in memory, its tunnel not counted, in KiB.
    pub kib_each: f64,
    /// Of the relay, for a request that nobody claims, and for one that is claimed; without what it takes to keep the tunnels.
    pub passed_cpu_us: Figure,
    pub claimed_cpu_us: Figure,
    /// One in a hundred takes longer, without and with claims that come and go.
    pub calm_p99_us: Figure,
    pub churned_p99_us: Figure,
    /// How many came in a second, of those that were wanted.
    pub came: Figure,
    /// Of the relay, for one that comes and goes.
    pub churn_cpu_us: Figure,
}

/// A relay with its claims.
struct Among {
    stack: Stack,
    /// Of one processor, with nobody calling.
    at_rest: f64,
    row: Row,
    holding: JoinSet<anyhow::Result<()>>,
    _orders: Vec<mpsc::Sender<Vec<Intercept>>>,
    /// Who serves the claim that is measured.
    _developer: Process,
    churners: Arc<[culvert_client::profile::Profile]>,
}

/// Nobody's request, but with everything that claims look at; and the measured developer's.
const PASSED: [&str; 2] = ["a-team: red", "x-user: nobody"];
const CLAIMED: [&str; 2] = ["a-team: red", "x-user: measured"];

pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Report> {
    pinned::this(pinned::REST).await;
    let directory = TempDir::with_prefix("culvert-loadtest-")?;
    let upstream = Upstream::start(directory.path()).await?;
    let mut relays = Vec::new();
    // As many on every relay as the most claims need: what they take themselves is the same for all.
    let tunnels = effort.claims.iter().map(|claims| (*claims as usize).div_ceil(OF_ONE)).max().unwrap_or(1);
    for claims in &effort.claims {
        relays.push(Among::prepare(binaries, &upstream, *claims, tunnels, effort.churn).await?);
    }
    let time = Duration::from_secs(effort.seconds);
    for _ in 0..effort.rounds {
        for among in &mut relays {
            let passed = among.cost(&PASSED, time).await?;
            among.row.passed_cpu_us.runs.push(passed);
            let claimed = among.cost(&CLAIMED, time).await?;
            among.row.claimed_cpu_us.runs.push(claimed);
        }
        for among in &mut relays {
            among.callers_of(effort, time).await?;
        }
    }
    for among in &mut relays {
        if let Some(ended) = among.holding.try_join_next() {
            bail!("a tunnel was lost: {:?}", ended?);
        }
    }
    Ok(Report {
        processors: pinned::processors(),
        pinned: pinned::possible(),
        upstream: upstream.name(),
        churn: effort.churn,
        rate: effort.rate,
        rows: relays.into_iter().map(|among| among.row.counted()).collect(),
    })
}

impl Among {
    async fn prepare(
        binaries: &Binaries,
        upstream: &Upstream,
        claims: u32,
        count: usize,
        churn: u32,
    ) -> anyhow::Result<Self> {
        let stack = with_room(binaries, upstream, claims).await?;
        let (mut holding, mut orders, (show, mut in_force)) =
            (JoinSet::new(), Vec::new(), mpsc::channel(OF_ONE));
        for number in 0..count {
            let profile = claimants::developer(&stack, &format!("dev-{number}")).await?;
            let (order, told) = mpsc::channel(1);
            holding.spawn(Claimant::connect(&profile).await?.hold(told, show.clone()));
            orders.push(order);
        }
        drop(show);
        sleep(SETTLED).await;
        let (without, cpu, begun) = (stack.relay.memory()?, stack.relay.cpu()?, Instant::now());
        let mut row = Row { claims, tunnels: count, ..Row::default() };
        for (number, order) in orders.iter().enumerate() {
            let first = number * OF_ONE;
            // The last ones have none, where there are more tunnels than that.
            let numbers = first..(first + OF_ONE).min(claims as usize);
            let intercepts = numbers.map(|number| claim(&format!("c{number}"), number.is_multiple_of(2)));
            order.send(intercepts.collect::<anyhow::Result<_>>()?).await.context("a tunnel was lost")?;
        }
        let announcing = async {
            for _ in 0..claims {
                in_force.recv().await.context("all tunnels were lost")?;
            }
            anyhow::Ok(())
        };
        timeout(ANNOUNCED, announcing).await.context("waiting for claims to be in force")??;
        row.announced_s = begun.elapsed().as_secs_f64();
        row.announce_cpu_us = (stack.relay.cpu()? - cpu).as_secs_f64() * 1e6 / f64::from(claims);
        sleep(SETTLED).await;
        row.kib_each = stack.relay.memory()?.saturating_sub(without) as f64 / f64::from(claims);
        let (cpu, begun) = (stack.relay.cpu()?, Instant::now());
        sleep(SETTLED).await;
        let at_rest = (stack.relay.cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();

        let measured = stack.developer("measured").await?;
        let app = upstream.address.to_string();
        let arguments = ["--transport", "tls", "orders", &app, "a-team=red", "x-user=measured"];
        let developer = stack.intercept_quietly(&measured, &arguments).await?;
        let mut churners = Vec::new();
        for number in 0..(2 * churn as usize).div_ceil(CHANGES) {
            churners.push(claimants::developer(&stack, &format!("churn-{number}")).await?);
        }
        if let Some(ended) = holding.try_join_next() {
            bail!("a tunnel was lost: {:?}", ended?);
        }
        Ok(Self {
            stack,
            at_rest,
            row,
            holding,
            _orders: orders,
            _developer: developer,
            churners: churners.into(),
        })
    }

    /// What the relay takes for one of these requests, in microseconds of a processor.
    async fn cost(&self, fields: &[&str], time: Duration) -> anyhow::Result<f64> {
        let request = caller::request("/small", fields);
        let load = Load { address: self.stack.door, request, connections: CONNECTIONS, time };
        Load { time: WARM_UP.min(time), ..load.clone() }.run().await?;
        let before = self.stack.relay.cpu()?;
        let outcome = load.run().await?;
        let used = (self.stack.relay.cpu()? - before).as_secs_f64();
        let kept = self.at_rest * outcome.took.as_secs_f64();
        Ok((used - kept).max(0.0) * 1e6 / outcome.requests.max(1) as f64)
    }

    /// How long callers wait, without and with claims that come and go.
    async fn callers_of(&mut self, effort: &Effort, time: Duration) -> anyhow::Result<()> {
        let (address, request) = (self.stack.door, caller::request("/small", &PASSED));
        let open = Open { address, request, per_second: effort.rate, time };
        let wait = async || {
            let outcome = open.clone().run().await?;
            anyhow::Ok(outcome.latency(0.99).as_secs_f64() * 1e6)
        };
        wait().await?;
        let before = self.stack.relay.cpu()?;
        let calm = wait().await?;
        let alone = self.stack.relay.cpu()? - before;
        let churn = Churn::start(Arc::clone(&self.churners), effort.churn).await?;
        let (begun, before) = (Instant::now(), self.stack.relay.cpu()?);
        let earlier = churn.came();
        let churned = wait().await?;
        let more = (self.stack.relay.cpu()? - before).saturating_sub(alone);
        let came = (churn.came() - earlier) as f64;
        let rate = came / begun.elapsed().as_secs_f64();
        churn.end()?;
        self.row.calm_p99_us.runs.push(calm);
        self.row.churned_p99_us.runs.push(churned);
        self.row.came.runs.push(rate);
        self.row.churn_cpu_us.runs.push(more.as_secs_f64() * 1e6 / came.max(1.0));
        Ok(())
    }
}

/// A relay that takes so many claims, and those of the measurement.
async fn with_room(binaries: &Binaries, upstream: &Upstream, claims: u32) -> anyhow::Result<Stack> {
    /// The measured one, and those that come and go.
    const MORE: u32 = 1_000;
    let mut stack = Stack::before(binaries, &upstream.url(), Where::Pinned).await?;
    if claims + MORE <= OF_A_RELAY {
        return Ok(stack);
    }
    let file = stack.relay_yaml();
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replacen("names: [", &format!("claims: {}, names: [", claims + MORE), 1))?;
    stack.relay.signal("TERM").await?;
    let ending = async {
        while stack.relay.is_running() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ending).await.context("waiting for the relay's end")?;
    stack.start_relay().await?;
    Ok(stack)
}

/// On one user's requests, or on those with something that many others ask for as well.
fn claim(user: &str, shared: bool) -> anyhow::Result<Intercept> {
    let mut intercept = world::intercept(&format!("x-user={user}"))?;
    if shared {
        intercept.matcher = Matcher::new(["a-team=red".parse()?, format!("x-user={user}").parse()?])?;
    }
    Ok(intercept)
}

impl Row {
    fn counted(mut self) -> Self {
        for figure in [
            &mut self.passed_cpu_us,
            &mut self.claimed_cpu_us,
            &mut self.calm_p99_us,
            &mut self.churned_p99_us,
            &mut self.came,
            &mut self.churn_cpu_us,
        ] {
            *figure = Figure::of(std::mem::take(&mut figure.runs));
        }
        self
    }
}

impl Report {
    pub fn table(&self) -> String {
        let heading = [
            "claims",
            "KiB each",
            "announced in s",
            "CPU us each",
            "passed us/req",
            "spread",
            "vs first",
            "claimed us/req",
            "spread",
            "vs first",
            "p99 us",
            "with churn",
            "ratio",
            "claims/s",
            "CPU us each",
        ];
        let mut table = Table::new(0, &heading);
        for row in &self.rows {
            let versus = |figure: fn(&Row) -> &Figure| {
                let ratio = self.rows.first().map(|first| figure(row).ratio(figure(first)));
                format!("{:.2}x", ratio.unwrap_or(f64::NAN))
            };
            let spread = |figure: &Figure| format!("{:.0} %", figure.spread * 100.0);
            table.row(vec![
                row.claims.to_string(),
                format!("{:.2}", row.kib_each),
                format!("{:.1}", row.announced_s),
                format!("{:.0}", row.announce_cpu_us),
                format!("{:.1}", row.passed_cpu_us.median),
                spread(&row.passed_cpu_us),
                versus(|row| &row.passed_cpu_us),
                format!("{:.1}", row.claimed_cpu_us.median),
                spread(&row.claimed_cpu_us),
                versus(|row| &row.claimed_cpu_us),
                format!("{:.0}", row.calm_p99_us.median),
                format!("{:.0}", row.churned_p99_us.median),
                format!("{:.2}x", row.churned_p99_us.ratio(&row.calm_p99_us)),
                format!("{:.0}", row.came.median),
                format!("{:.0}", row.churn_cpu_us.median),
            ]);
        }
        let pinned = if self.pinned { "" } else { "; not pinned" };
        format!(
            "{}{} processors, upstream: {}{pinned}; p99 at {} requests/s, churn of {} claims/s\n",
            table.render(),
            self.processors,
            self.upstream,
            self.rate,
            self.churn
        )
    }
}
