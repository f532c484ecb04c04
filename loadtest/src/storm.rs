//! `cargo loadtest storm`: a relay that is killed and started again while thousands of developers have tunnels to it, and how
//! long it is until all of them are served again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use culvert_client::dial::Rungs;
use culvert_client::session::{Ready, Session};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::binaries::Binaries;
use crate::caller;
use crate::crowd::Crowd;
use crate::figures::Table;
use crate::origin::Origin;
use crate::stack::{Stack, Where};

/// Until every one of them is served again.
const ALL: Duration = Duration::from_secs(15);
/// What the relay may take in memory meanwhile, in KiB.
const MEMORY: u64 = 1 << 20;

/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a session may take to notice that its tunnel is gone before it is asked all the same.
const NOTICED: Duration = Duration::from_secs(10);
/// Requests at once, and between two for one developer.
const ASKING: usize = 256;
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Developers
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub clients: u16,
    /// What carries their tunnels
    #[arg(long, value_enum, default_value_t)]
    pub transport: Rungs,
}

/// Times in seconds, from the moment at which the relay was killed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub clients: u16,
    pub transport: String,
    /// The relay listens again.
    pub restarted: f64,
    /// So many of them were served again.
    pub half: f64,
    pub most: f64,
    pub all: f64,
    /// What the new relay kept in memory at most, in KiB.
    pub peak_kib: u64,
    /// Connections that it turned away for the time being, by why.
    pub refused: Vec<String>,
}

pub async fn run(binaries: &Binaries, effort: Effort) -> anyhow::Result<Report> {
    let (upstream, app) = (Origin::named("upstream").await?, Origin::named("app").await?);
    let mut stack = Stack::before(binaries, &upstream.url(), Where::Anywhere).await?;
    let mut crowd = Crowd::gather(&stack, effort.clients.into(), effort.transport, &app.url()).await?;

    let before: Vec<_> = crowd.sessions.iter().map(Session::now).collect();
    let killed = Instant::now();
    stack.relay.signal("KILL").await?;
    while stack.relay.is_running() {
        sleep(Duration::from_millis(1)).await;
    }
    stack.start_relay().await?;
    let restarted = killed.elapsed();
    let mut served = served(stack.door, &mut crowd, before, killed).await?;
    served.sort_unstable();
    let at = |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the length")]
        let index = ((served.len() as f64 * part).ceil() as usize).saturating_sub(1);
        served.get(index).copied().unwrap_or_default().as_secs_f64()
    };
    let metrics = caller::get(stack.admin, "/metrics", &[]).await?.text();
    let refused = metrics.lines().filter(|line| line.starts_with("culvert_tunnel_refused_total{"));
    let report = Report {
        clients: effort.clients,
        transport: effort
            .transport
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default(),
        restarted: restarted.as_secs_f64(),
        half: at(0.5),
        most: at(0.99),
        all: at(1.0),
        peak_kib: stack.relay.peak()?,
        refused: refused.filter_map(|line| line.split_once('{')).map(|(_, rest)| rest.to_owned()).collect(),
    };
    crowd.leave().await?;
    Ok(report)
}

/// When each developer's app answered a request again. Asked as soon as its session has another tunnel, and not all the time from
/// the start: thousands of questions a second would be most of what the relay has to do.
async fn served(
    door: SocketAddr,
    crowd: &mut Crowd,
    before: Vec<Option<Arc<Ready>>>,
    killed: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let (turns, mut asking) = (Arc::new(Semaphore::new(ASKING)), JoinSet::new());
    for (number, (mut session, before)) in crowd.sessions.drain(..).zip(before).enumerate() {
        let turns = Arc::clone(&turns);
        asking.spawn(async move {
            let field = Crowd::field(number);
            while killed.elapsed() < PATIENCE {
                // One whose new tunnel came up beside the old one never was without.
                let again = timeout(NOTICED, session.ready_again(before.as_ref())).await;
                if matches!(again, Ok(None)) {
                    bail!("a session ended: {:?}", session.ended().await);
                }
                let turn = turns.acquire().await?;
                // One that is not answered is asked again.
                let answer = caller::get(door, "/", &[&field]).await;
                if answer.is_ok_and(|answer| answer.text().starts_with("app ")) {
                    return anyhow::Ok((killed.elapsed(), session));
                }
                drop(turn);
                sleep(AGAIN).await;
            }
            bail!("developer {number} is not served again within {PATIENCE:?}")
        });
    }
    let mut served = Vec::new();
    while let Some(done) = asking.join_next().await {
        let (after, session) = done.context("a caller's task")??;
        served.push(after);
        crowd.sessions.push(session);
    }
    Ok(served)
}

impl Report {
    pub fn table(&self) -> String {
        let mut table = Table::new(
            1,
            &["tunnels", "clients", "relay back s", "50 % s", "99 % s", "all s", "relay peak MiB"],
        );
        table.row(vec![
            self.transport.clone(),
            self.clients.to_string(),
            format!("{:.2}", self.restarted),
            format!("{:.2}", self.half),
            format!("{:.2}", self.most),
            format!("{:.2}", self.all),
            (self.peak_kib >> 10).to_string(),
        ]);
        format!("{}turned away: {}\n", table.render(), self.refused.join(", "))
    }

    /// An error where what is claimed did not hold.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if self.all > ALL.as_secs_f64() {
            bail!("all are served again after {:.1} s, not within {ALL:?}", self.all);
        }
        if self.peak_kib > MEMORY {
            bail!("the relay took {} KiB", self.peak_kib);
        }
        Ok(())
    }
}
