//! What is measured of anything that answers HTTP requests: its processor time, its speed, its memory. Knows nothing of what
//! it is made of but the processes whose time counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use super::{DIRECT, Effort, Sheet, progress};
use crate::caller;
use crate::load::{Callers, Load, Outcome, h2c};
use crate::open::Open;
use crate::process::Process;
use crate::upstream::Body;

/// Connections are opened and caches filled before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a connection took is given back once it is idle, and what the ones before took once they are gone.
const SETTLED: Duration = Duration::from_secs(3);
/// The load in which memory is looked at.
const LOADED: Duration = Duration::from_secs(2);
/// Requests at once where nothing else is said.
pub const CALLERS: usize = 64;

pub const CPU: &str = "CPU µs/request";
/// Of a tunnel: its other half is on the developer's machine.
pub const OF_RELAY: &str = "of that the relay's";
pub const RATE: &str = "requests/s";
pub const ADDED: &str = "added p50 µs";
pub const PER_IDLE: &str = "KiB per idle connection";

/// What the load is put on.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    pub name: String,
    pub http1: SocketAddr,
    /// None: it has no HTTP/2 without TLS.
    pub h2c: Option<SocketAddr>,
    /// Field lines that decide where its requests go.
    pub fields: Vec<&'a str>,
    /// Whose processor time counts; where there are several the last is the developer's.
    pub processes: Vec<&'a Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    H2c,
}

enum Calling {
    Http1(Callers),
    H2c(Box<h2c::Callers>),
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::H2c => "h2c",
        }
    }
}

/// As many requests as they take, of so many callers at once.
pub async fn saturated(
    targets: &[Target<'_>],
    protocol: Protocol,
    body: Body,
    callers: usize,
    effort: &Effort,
) -> anyhow::Result<Sheet> {
    let at_once = body.callers(callers);
    let name = format!("{}, {}, {at_once} at once", protocol.name(), body.name());
    progress(&name);
    let mut sheet = Sheet::new(name, &[CPU, OF_RELAY, RATE, "busy %", "p50 µs", "p99 µs"]);
    for _ in 0..effort.rounds {
        for target in targets.iter().filter(|target| protocol == Protocol::Http1 || target.h2c.is_some()) {
            sheet.take(&target.name, target.saturated(protocol, body, at_once, effort.time()).await)?;
        }
    }
    Ok(sheet)
}

/// So many a second, whoever waits; what is added is what direct requests of the same round did not take. `direct` comes first.
pub async fn paced(targets: &[Target<'_>], effort: &Effort) -> anyhow::Result<Sheet> {
    let name = format!("{} requests/s, 200 B", effort.rate);
    progress(&name);
    let mut sheet = Sheet::new(name, &[CPU, "p50 µs", "p99 µs", ADDED, "added p99 µs"]);
    for _ in 0..effort.rounds {
        let mut direct = [f64::NAN; 2];
        for target in targets {
            let run = target.paced(effort).await.map(|[cpu, p50, p99]| {
                if target.name == DIRECT {
                    direct = [p50, p99];
                    return [cpu, p50, p99, f64::NAN, f64::NAN];
                }
                [cpu, p50, p99, p50 - direct[0], p99 - direct[1]]
            });
            sheet.take(&target.name, run)?;
        }
    }
    Ok(sheet)
}

/// At rest, with connections on which nobody asks, and with the usual load. Wants to be the first that is measured.
pub async fn memory(targets: &[Target<'_>], effort: &Effort) -> anyhow::Result<Sheet> {
    progress("memory");
    let idle = format!("MB with {} idle", effort.idle);
    let mut sheet = Sheet::new("Memory", &[PER_IDLE, "MB at rest", &idle, "MB under load"]);
    for target in targets.iter().filter(|target| target.name != DIRECT) {
        sheet.take(&target.name, target.kept(effort).await)?;
    }
    Ok(sheet)
}

impl Target<'_> {
    pub fn load(&self, body: Body, connections: usize, time: Duration) -> Load {
        Load { address: self.http1, request: caller::request(body.path(), &self.fields), connections, time }
    }

    /// In the order of the columns.
    async fn saturated(
        &self,
        protocol: Protocol,
        body: Body,
        at_once: usize,
        time: Duration,
    ) -> anyhow::Result<[f64; 6]> {
        let mut calling = self.calling(protocol, body, at_once).await?;
        calling.run(WARM_UP).await.context("warming up")?;
        let (before, relay) = (self.cpu()?, self.relay()?);
        let outcome = calling.run(time).await?;
        let used = self.cpu()?.saturating_sub(before).as_secs_f64();
        let of_relay = self.relay()?.zip(relay).map_or(f64::NAN, |(after, before)| {
            self.per_request(after.saturating_sub(before).as_secs_f64(), &outcome)
        });
        let busy =
            if self.processes.is_empty() { f64::NAN } else { used / outcome.took.as_secs_f64() * 100.0 };
        let [p50, p99] = [0.5, 0.99].map(|part| microseconds(&outcome, part));
        Ok([self.per_request(used, &outcome), of_relay, outcome.per_second(), busy, p50, p99])
    }

    async fn paced(&self, effort: &Effort) -> anyhow::Result<[f64; 3]> {
        let open = |time| Open {
            address: self.http1,
            request: caller::request(Body::Small.path(), &self.fields),
            per_second: effort.rate,
            time,
        };
        open(WARM_UP).run().await.context("warming up")?;
        let before = self.cpu()?;
        let outcome = open(effort.time()).run().await?;
        let used = self.cpu()?.saturating_sub(before).as_secs_f64();
        let [p50, p99] = [0.5, 0.99].map(|part| microseconds(&outcome, part));
        Ok([self.per_request(used, &outcome), p50, p99])
    }

    async fn kept(&self, effort: &Effort) -> anyhow::Result<[f64; 4]> {
        let rest = self.memory()?;
        let mut idle = self.load(Body::Small, effort.idle.into(), Duration::ZERO).callers().await?;
        idle.ask_once().await?;
        sleep(SETTLED).await;
        let with_idle = self.memory()?;
        drop(idle);
        sleep(SETTLED / 3).await;
        let mut callers = self.load(Body::Small, CALLERS, Duration::ZERO).callers().await?;
        let halfway = async {
            sleep(LOADED / 2).await;
            self.memory()
        };
        let (outcome, loaded) = tokio::join!(callers.run(LOADED), halfway);
        outcome?;
        let each = (with_idle as f64 - rest as f64) / f64::from(effort.idle);
        let megabytes = |kib: u64| kib as f64 / 1024.0;
        Ok([each, megabytes(rest), megabytes(with_idle), megabytes(loaded?)])
    }

    async fn calling(&self, protocol: Protocol, body: Body, at_once: usize) -> anyhow::Result<Calling> {
        match protocol {
            Protocol::Http1 => Ok(Calling::Http1(self.load(body, at_once, Duration::ZERO).callers().await?)),
            Protocol::H2c => {
                let address = self.h2c.context("it has no h2c")?;
                let callers = h2c::Callers::connect(address, body.path(), &self.fields, at_once).await?;
                Ok(Calling::H2c(Box::new(callers)))
            }
        }
    }

    fn per_request(&self, used: f64, outcome: &Outcome) -> f64 {
        if self.processes.is_empty() { f64::NAN } else { used * 1e6 / outcome.requests.max(1) as f64 }
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.processes.iter().map(|process| process.cpu()).sum()
    }

    /// Of all but the developer's.
    fn relay(&self) -> anyhow::Result<Option<Duration>> {
        match &self.processes[..] {
            [] | [_] => Ok(None),
            [relay @ .., _] => relay.iter().map(|process| process.cpu()).sum::<anyhow::Result<_>>().map(Some),
        }
    }

    /// In KiB.
    fn memory(&self) -> anyhow::Result<u64> {
        self.processes.iter().map(|process| process.memory()).sum()
    }
}

impl Calling {
    async fn run(&mut self, time: Duration) -> anyhow::Result<Outcome> {
        match self {
            Self::Http1(callers) => callers.run(time).await,
            Self::H2c(callers) => callers.run(time).await,
        }
    }
}

fn microseconds(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latency(quantile).as_secs_f64() * 1e6
}
