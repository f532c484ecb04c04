//! `cargo loadtest soak`: the programs as they are shipped, callers who do not slow down, and a network and a developer as
//! they are. What is claimed is that no caller sees any of it, and that nothing runs twice.
//!
//! The timeline stands here, and that of several relays in `rolling`; what calls is in `calls`, what ran in `ledger`, what is
//! printed in `report`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use culvert_client::dial::Rungs;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

use crate::binaries::Binaries;
use crate::flaky::Flaky;
use crate::process::Process;
use crate::stack::{Home, Stack, Where};

mod calls;
pub mod fleet;
mod ledger;
mod report;
mod rolling;

use calls::Calls;
use ledger::{Ledger, Side};
pub use report::{Answered, Report};

/// Each way: 50 ms there and back.
const DELAY: Duration = Duration::from_millis(25);
/// Each way.
const LOSS: f64 = 0.01;
/// How often the client's address changes.
const MOVES: Duration = Duration::from_secs(5);
/// How long the client is stopped, unless the whole is shorter than six times that.
const STOPPED: Duration = Duration::from_secs(10);
/// How long whoever leads callers to relays takes to hear of a new one.
const HEARD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// For how long requests are sent
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(6..=86_400))]
    pub seconds: u64,
    /// Requests a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub rate: u32,
    /// What carries the tunnel
    #[arg(long, value_enum, default_value_t)]
    pub transport: Rungs,
    /// More than one are restarted one after the other, and nothing else happens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub relays: u8,
}

/// Every other request is claimed by a developer behind the link; all of them must be answered, by whichever side.
pub async fn run(binaries: &Binaries, effort: Effort) -> anyhow::Result<Report> {
    match effort.relays {
        1 => Box::pin(replaced(binaries, effort)).await,
        _ => Box::pin(rolling::run(binaries, effort)).await,
    }
}

async fn replaced(binaries: &Binaries, effort: Effort) -> anyhow::Result<Report> {
    let ledger = Arc::new(Ledger::default());
    let (app, upstream) = (ledger.origin(Side::App).await?, ledger.origin(Side::Upstream).await?);
    let mut stack = Stack::before(binaries, &upstream.url(), Where::Anywhere).await?;
    let link = Flaky::to(stack.tunnel).await?;
    let home = stack.developer_dialling("alice", link.address()).await?;
    let client = claimed(&stack, &home, effort.transport, &app.url()).await?;
    link.delay(DELAY);
    link.lose(LOSS);

    let doors = watch::Sender::new([stack.door].into());
    let begun = Instant::now();
    let time = Duration::from_secs(effort.seconds);
    let mut calling = JoinSet::new();
    let calls = Calls { doors: doors.subscribe(), begun, time, rate: effort.rate };
    calling.spawn(calls.run());
    let events = async {
        tokio::try_join!(
            move_about(&link, effort.transport, begun, time),
            stop(&client, begun + time / 6, STOPPED.min(time / 6)),
            replace(&mut stack, &link, &doors, begun + time * 2 / 3),
        )
    };
    let (moves, (), drained) = events.await?;
    let outcome = calling.join_next().await.context("nobody calls")?.context("the callers' task failed")?;
    Ok(Report::new(effort, outcome, &ledger, moves, drained))
}

/// A developer's client, once its claim is in force.
async fn claimed(stack: &Stack, home: &Home, rungs: Rungs, app: &str) -> anyhow::Result<Process> {
    let transport = rungs.to_possible_value().context("a transport without a name")?;
    let policy = ["--transport", transport.get_name(), "--on-unreachable", "upstream"];
    stack.intercept_quietly(home, &[&policy[..], &["orders", app, "x-user=alice"]].concat()).await
}

/// The client's address changes, as on a train. Returns how often. Not over TCP: a connection ends with its address, and with it
/// the answers to what the app has had already, which nobody may ask for again.
async fn move_about(link: &Flaky, rungs: Rungs, begun: Instant, time: Duration) -> anyhow::Result<u32> {
    if matches!(rungs, Rungs::Tls | Rungs::WebSocket) {
        return Ok(0);
    }
    let mut moves = interval_at(begun + MOVES, MOVES);
    let mut count = 0;
    while moves.tick().await < begun + time {
        link.new_source_port();
        count += 1;
    }
    Ok(count)
}

/// The client does nothing for a time, as behind a closed lid.
async fn stop(client: &Process, at: Instant, long: Duration) -> anyhow::Result<()> {
    sleep_until(at).await;
    client.signal("STOP").await?;
    sleep(long).await;
    client.signal("CONT").await
}

/// Another relay takes over, and the former is told to finish. True: it had nothing left when it ended.
async fn replace(
    stack: &mut Stack,
    link: &Flaky,
    doors: &watch::Sender<Arc<[SocketAddr]>>,
    at: Instant,
) -> anyhow::Result<bool> {
    sleep_until(at).await;
    let former = stack.replace_relay().await?;
    link.lead_to(stack.tunnel);
    doors.send_replace([stack.door].into());
    sleep(HEARD).await;
    former.signal("TERM").await?;
    Ok(former.ended().await?.code == Some(0))
}

impl Report {
    /// An error where what is claimed did not hold.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if self.failed > 0 || self.posts_twice > 0 {
            bail!("{} requests failed, {} POSTs ran twice", self.failed, self.posts_twice);
        }
        Ok(())
    }
}
