//! A link that is as long, lossy and narrow as it is told to be, between two TUN devices: where the kernel has no emulator
//! of its own. Everything passes that IP carries, so that the systems' own TCP and QUIC meet it. It wants root and
//! /dev/net/tun; what needs neither is [`crate::flaky`].
//!
//! The devices are made here, and moved into network namespaces by whoever asked for them. Timers wake once in a
//! millisecond: what a rate lets through in that time passes together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

pub mod check;
pub mod command;
mod direction;
pub(crate) mod namespaces;
mod packet;
mod probe;

use direction::Direction;

/// Under way in each direction; more are lost, whatever the queue may hold. 100 ms of 1 Gbit/s.
const UNDER_WAY: usize = 8192;

/// Read at once before anything is sent on.
const BATCH: usize = 64;

/// The largest packet that a device hands over.
const PACKET: usize = 65_535;

/// What one direction is like; both are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub delay: Duration,
    /// Up to so much more, evenly spread; packets overtake one another then.
    pub jitter: Duration,
    /// A share, at random.
    pub loss: f64,
    /// In bit/s. None: as fast as it goes.
    pub rate: Option<f64>,
    /// As long as it may take what waits for the rate to be sent; what would wait for longer is lost.
    pub queue: Duration,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Link {
    state: watch::Sender<State>,
    #[expect(dead_code, reason = "its tasks end with it")]
    tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    settings: Settings,
    /// Nothing passes.
    out: bool,
    /// Whom the far end takes the near one for. None: for who it is.
    appears_as: Option<Ipv4Addr>,
    /// Who the near end is, once it has sent something.
    near: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heading {
    Far,
    Near,
}

impl Link {
    /// Makes the two devices, in the namespace of this process.
    pub fn between(near: &str, far: &str, settings: Settings) -> anyhow::Result<Self> {
        let (near, far) = (Arc::new(device(near)?), Arc::new(device(far)?));
        let state = watch::Sender::new(State { settings, out: false, appears_as: None, near: None });
        let mut tasks = JoinSet::new();
        tasks.spawn(carry(Arc::clone(&near), Arc::clone(&far), Heading::Far, state.clone()));
        tasks.spawn(carry(far, near, Heading::Near, state.clone()));
        Ok(Self { state, tasks })
    }

    pub fn set(&self, settings: Settings) {
        self.state.send_modify(|now| now.settings = settings);
    }

    pub fn settings(&self) -> Settings {
        self.state.borrow().settings
    }

    /// Nothing passes, silently, until it is over.
    pub fn outage(&self, out: bool) {
        self.state.send_modify(|now| now.out = out);
    }

    /// The near end's address changes, as the far end sees it. What is sent to the former one arrives nowhere.
    pub fn appear_as(&self, address: Ipv4Addr) {
        self.state.send_modify(|now| now.appears_as = Some(address));
    }
}

fn device(name: &str) -> anyhow::Result<Tun> {
    let made = Tun::builder().name(name).build();
    let making = || {
        format!("making the TUN device {name}: wants root (CAP_NET_ADMIN), and /dev/net/tun of the kernel")
    };
    match made.with_context(making)?.pop() {
        Some(device) => Ok(device),
        None => bail!("making the TUN device {name}: there is none"),
    }
}

/// In order of arrival, and then of departure.
type UnderWay = BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>;

async fn carry(from: Arc<Tun>, to: Arc<Tun>, heading: Heading, state: watch::Sender<State>) {
    let mut direction = Direction::default();
    let mut under_way = UnderWay::new();
    let mut buffer = vec![0; PACKET];
    let mut count = 0;
    loop {
        let next = under_way.peek().map(|Reverse((due, ..))| *due);
        let arrival = async {
            match next {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = arrival => {}
            read = from.recv(&mut buffer) => {
                let mut read = read;
                for _ in 0..BATCH {
                    // A device that is down has nothing to say; whoever set it up brings it up.
                    let Ok(length) = read else { break };
                    let packet = &mut buffer[..length];
                    let now = *state.borrow();
                    let passes = !now.out && readdressed(packet, heading, now, &state);
                    if passes && under_way.len() < UNDER_WAY
                        && let Some(due) = direction.enter(Instant::now(), length, &now.settings, rand::random)
                    {
                        count += 1;
                        under_way.push(Reverse((due, count, packet.to_vec())));
                    }
                    read = from.try_recv(&mut buffer);
                }
            }
        }
        let now = Instant::now();
        while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, packet))) = under_way.pop() else { break };
            if !state.borrow().out {
                // What a device does not take is lost.
                let _ = to.send(&packet).await;
            }
        }
    }
}

/// False: it is addressed to who is not there any more.
fn readdressed(packet: &mut [u8], heading: Heading, now: State, state: &watch::Sender<State>) -> bool {
    match heading {
        Heading::Far => {
            let Some(source) = packet::source(packet) else { return true };
            if now.near.is_none() {
                state.send_modify(|now| now.near = Some(source));
            }
            if let Some(address) = now.appears_as {
                packet::set_source(packet, address);
            }
            true
        }
        Heading::Near => {
            let (Some(appears_as), Some(near)) = (now.appears_as, now.near) else { return true };
            match packet::destination(packet) {
                Some(destination) if destination == appears_as => {
                    packet::set_destination(packet, near);
                    true
                }
                Some(_) => false,
                None => true,
            }
        }
    }
}
