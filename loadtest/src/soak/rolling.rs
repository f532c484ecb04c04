//! Relays that are restarted one after the other while callers go on, led past those that are not ready as by a load balancer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::calls::Calls;
use super::fleet::Fleet;
use super::ledger::{Ledger, PROBES, Side};
use super::{DELAY, Effort, HEARD, LOSS, Report, claimed};
use crate::binaries::Binaries;
use crate::caller;
use crate::flaky::Flaky;
use crate::stack::{Stack, Where};

/// How long new tunnels lead to one relay, until it is the next one's turn.
const TURN: Duration = Duration::from_millis(50);

/// To have a tunnel to every relay: the one that is missing is found by chance, with up to ten seconds between two tries.
const LINKED: Duration = Duration::from_secs(90);

pub(super) async fn run(binaries: &Binaries, effort: Effort) -> anyhow::Result<Report> {
    let ledger = Arc::new(Ledger::default());
    let (app, upstream) = (ledger.origin(Side::App).await?, ledger.origin(Side::Upstream).await?);
    let stack = Stack::before(binaries, &upstream.url(), Where::Anywhere).await?;
    let link = Flaky::to(stack.tunnel).await?;
    let home = stack.developer_dialling("alice", link.address()).await?;
    let mut fleet = Fleet::beside(&stack, binaries, &upstream.url(), effort.relays.into()).await?;
    let ready = watch::Sender::new(fleet.tunnels());
    let restarted = async {
        let _client = claimed(&stack, &home, effort.transport, &app.url()).await?;
        for (id, door) in (PROBES..).step_by(1_000).zip(fleet.doors()) {
            linked(door, id).await?;
        }
        link.delay(DELAY);
        link.lose(LOSS);
        let doors = watch::Sender::new(fleet.doors().into());
        let begun = Instant::now();
        let time = Duration::from_secs(effort.seconds);
        let mut calling = JoinSet::new();
        let calls = Calls { doors: doors.subscribe(), begun, time, rate: effort.rate };
        calling.spawn(calls.run());
        let mut drained = true;
        for at in 0..fleet.relays().len() {
            let part = time / u32::from(effort.relays + 2);
            sleep_until(begun + part * u32::try_from(at + 1)?).await;
            doors.send_replace(without(&fleet.doors(), at).into());
            ready.send_replace(without(&fleet.tunnels(), at));
            sleep(HEARD).await;
            drained &= fleet.restart(at).await?;
            doors.send_replace(fleet.doors().into());
            ready.send_replace(fleet.tunnels());
        }
        let outcome =
            calling.join_next().await.context("nobody calls")?.context("the callers' task failed")?;
        Ok(Report::new(effort, outcome, &ledger, 0, drained))
    };
    tokio::select! {
        report = restarted => report,
        () = balance(&link, ready.subscribe()) => bail!("nobody leads developers any more"),
    }
}

/// New tunnels come out at each relay that is ready, in turns.
async fn balance(link: &Flaky, ready: watch::Receiver<Vec<SocketAddr>>) {
    for turn in 0_usize.. {
        let tunnel = {
            let ready = ready.borrow();
            ready.get(turn % ready.len().max(1)).copied()
        };
        if let Some(tunnel) = tunnel {
            link.lead_to(tunnel);
        }
        sleep(TURN).await;
    }
}

/// Waits until the developer has what comes to this door.
async fn linked(door: SocketAddr, first: u64) -> anyhow::Result<()> {
    let linking = async {
        for id in first.. {
            let answer = caller::get(door, &format!("/{id}"), &["x-user: alice"]).await?;
            if answer.text() == format!("{} {id}", Side::App.name()) {
                break;
            }
            sleep(TURN).await;
        }
        anyhow::Ok(())
    };
    timeout(LINKED, linking).await.context("waiting for a tunnel to every relay: timed out")?
}

fn without(addresses: &[SocketAddr], at: usize) -> Vec<SocketAddr> {
    let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
    others.map(|(_, address)| *address).collect()
}
