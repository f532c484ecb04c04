//! How long a developer waits for the first answer of the app: after starting the client, and after the relay was killed, was
//! away for a moment, and was started again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, timeout};

use super::tunnels::Running;
use super::{Effort, Sheet, progress};
use crate::caller;

/// How long the relay is away: long enough for every client to have noticed.
const AWAY: Duration = Duration::from_secs(1);
/// Between two attempts.
const BETWEEN: Duration = Duration::from_millis(1);
/// For the first of them; the next have twice as long, up to half a second. One that hangs is not to be waited for.
const ATTEMPT: Duration = Duration::from_millis(20);
const LONGEST_ATTEMPT: Duration = Duration::from_millis(500);
/// In all.
const PATIENCE: Duration = Duration::from_secs(60);

pub const STARTED: &str = "ms from the client's start";
pub const RESTARTED: &str = "ms from the relay's restart";

pub async fn measure(tunnels: &mut [Running], effort: &Effort) -> anyhow::Result<Sheet> {
    progress("starts");
    let mut sheet = Sheet::new("To the first answer through the tunnel", &[STARTED, RESTARTED]);
    for _ in 0..effort.rounds {
        for tunnel in tunnels.iter_mut() {
            let name = tunnel.name.clone();
            sheet.take(&name, once(tunnel).await)?;
        }
    }
    Ok(sheet)
}

/// In the order of the columns.
async fn once(tunnel: &mut Running) -> anyhow::Result<[f64; 2]> {
    tunnel.client.signal("TERM").await?;
    gone(&mut tunnel.client).await?;
    let begun = Instant::now();
    tunnel.start_client().await?;
    tunnel.served().await?;
    let started = begun.elapsed().as_secs_f64() * 1e3;
    if !tunnel.reconnects() {
        return Ok([started, f64::NAN]);
    }
    tunnel.server().signal("KILL").await?;
    sleep(AWAY).await;
    let begun = Instant::now();
    tunnel.start_server().await?;
    tunnel.served().await?;
    Ok([started, begun.elapsed().as_secs_f64() * 1e3])
}

async fn gone(process: &mut crate::process::Process) -> anyhow::Result<()> {
    let ending = async {
        while process.is_running() {
            sleep(BETWEEN).await;
        }
    };
    timeout(PATIENCE, ending).await.context("waiting for a client's end")
}

/// Waits until something answers there with 200 that is not the upstream.
pub(super) async fn served(address: SocketAddr, field: &str) -> anyhow::Result<()> {
    let asking = async {
        let mut attempt = ATTEMPT;
        loop {
            let asked = timeout(attempt, caller::get(address, "/small", &[field])).await;
            if matches!(&asked, Ok(Ok(answer)) if answer.line().contains(" 200 ")) {
                return;
            }
            if asked.is_err() {
                attempt = (attempt * 2).min(LONGEST_ATTEMPT);
            }
            sleep(BETWEEN).await;
        }
    };
    timeout(PATIENCE, asking).await.context("no answer of the app")
}
