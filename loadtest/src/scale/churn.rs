//! Claims that come and go beside what is measured. On a thread of its own, before which everybody else goes: callers are to wait
//! for the relay that is measured, and not for whoever keeps it busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use culvert_client::profile::Profile;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::claim;
use super::claimants::Claimant;

/// The lowest that there is.
const NICE: i32 = 19;

/// Ends with this.
pub(super) struct Churn {
    came: Arc<AtomicU64>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Churn {
    /// So many claims in a second, of all these developers together. Returns when all have their tunnels.
    pub(super) async fn start(churners: Arc<[Profile]>, per_second: u32) -> anyhow::Result<Self> {
        let came = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&came);
        let (stop, stopped) = oneshot::channel();
        let (ready, all) = oneshot::channel();
        let thread = thread::Builder::new().name("churn".to_owned()).spawn(move || {
            // Figures that are noisier without it are not wrong. It is this thread's alone.
            let _ = rustix::process::setpriority_process(None, NICE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(churn(churners, per_second, counted, ready, stopped))
        })?;
        let churn = Self { came, stop, thread };
        if all.await.is_err() {
            churn.end()?;
            bail!("claims do not come and go");
        }
        Ok(churn)
    }

    /// How many came in force until now.
    pub(super) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// An error if it ended before, or could not begin.
    pub(super) fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread with claims that come and go panicked"))?
    }
}

async fn churn(
    churners: Arc<[Profile]>,
    per_second: u32,
    came: Arc<AtomicU64>,
    ready: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let mut tunnels = Vec::new();
    for churner in churners.iter() {
        tunnels.push(Claimant::connect(churner).await?);
    }
    let start = Instant::now();
    let mut churning = JoinSet::new();
    for (number, tunnel) in tunnels.into_iter().enumerate() {
        // Spread over the time of one change.
        let first = start + Duration::from_micros(1_000_000 * number as u64 / u64::from(per_second) / 2);
        let name = move |at| claim(&format!("churn-{number}-{at}"), true);
        churning.spawn(tunnel.churn(first, Arc::clone(&came), name));
    }
    // Whoever waits may have gone.
    let _ = ready.send(());
    tokio::select! {
        // Dropped, which is how it is asked to end.
        _ = stopped => Ok(()),
        Some(ended) = churning.join_next() => ended?.context("claims no longer come and go"),
    }
}
