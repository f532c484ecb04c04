//! A way between a client and its relay that breaks when a test says so: a proxy for UDP and TCP on one port, in this
//! process and without privileges. It understands nothing of what passes. What it keeps is bounded: a queue that is full
//! loses datagrams, as a router's does, and makes a TCP sender wait.
//!
//! What it cannot show: a SYN that nobody answers. The system accepts for it, and the connection is then silent instead.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

mod tcp;
mod udp;

/// How often a port is looked for that is free for UDP and TCP.
const PORTS: usize = 32;

/// Ends, with everything that passes, when this is dropped.
#[derive(Debug)]
pub struct Flaky {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    #[expect(dead_code, reason = "its tasks end with it")]
    tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the relay.
    Up,
    /// From the relay to the client.
    Down,
}

/// What everything that passes now meets.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    /// Where what begins now leads; what is under way stays where it is.
    relay: SocketAddr,
    /// One way, each way.
    delay: Duration,
    /// Of datagrams, and of what would be TCP segments, each way.
    loss: f64,
    /// By protocol and way.
    silent: [[bool; 2]; 2],
    /// Of the datagrams to a client's port, only so many pass.
    answers: Option<u32>,
    paused: bool,
    /// How often everything was given a new source port.
    rebinds: u64,
    /// How often every TCP connection was reset.
    resets: u64,
}

impl Flaky {
    /// Listens on a port of the system's choice, and lets everything pass.
    pub async fn to(relay: SocketAddr) -> anyhow::Result<Self> {
        let (listener, socket) = one_port().await.context("taking one port for UDP and TCP")?;
        let address = listener.local_addr()?;
        let conditions = watch::Sender::new(Conditions {
            relay,
            delay: Duration::ZERO,
            loss: 0.0,
            silent: [[false; 2]; 2],
            answers: None,
            paused: false,
            rebinds: 0,
            resets: 0,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(tcp::carry(listener, conditions.subscribe()));
        tasks.spawn(udp::carry(socket, conditions.subscribe()));
        Ok(Self { address, conditions, tasks })
    }

    /// Where a client believes its relay to be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections, and datagrams from new ports, go to another relay; the others go on where they are, as behind a
    /// load balancer.
    pub fn lead_to(&self, relay: SocketAddr) {
        self.conditions.send_modify(|now| now.relay = relay);
    }

    /// Everything takes so long, in each direction.
    pub fn delay(&self, one_way: Duration) {
        self.conditions.send_modify(|now| now.delay = one_way);
    }

    /// This share is lost, in each direction: a datagram for ever; of TCP, what would be a segment arrives a round trip
    /// later, and all that is behind it waits, as it does where the system sends it again.
    pub fn lose(&self, share: f64) {
        self.conditions.send_modify(|now| now.loss = share.clamp(0.0, 1.0));
    }

    /// Silently takes nothing of one kind in one direction. Datagrams are lost; TCP waits, as if it were sent again and
    /// again, its ends and resets too.
    pub fn blackhole(&self, protocol: Protocol, way: Way) {
        self.conditions.send_modify(|now| now.silent[protocol as usize][way as usize] = true);
    }

    /// Lets the first answers to each of a client's ports through, and no further datagram: as a firewall does that looks at what
    /// passes, and then decides.
    pub fn first_answers(&self, count: u32) {
        self.conditions.send_modify(|now| now.answers = Some(count));
    }

    /// The same for everything.
    pub fn cut(&self) {
        self.conditions.send_modify(|now| now.silent = [[true; 2]; 2]);
    }

    /// Nothing passes and nothing is lost, as far as the queues reach, until [`Self::heal`].
    pub fn pause(&self) {
        self.conditions.send_modify(|now| now.paused = true);
    }

    /// Everything passes again, and nothing is lost any more. A delay stays.
    pub fn heal(&self) {
        self.conditions.send_modify(|now| {
            (now.silent, now.answers, now.paused, now.loss) = ([[false; 2]; 2], None, false, 0.0);
        });
    }

    /// What a NAT does that forgets its table: datagrams come to the relay from another port. A TCP connection is nothing
    /// to the relay from there, and so is reset towards the client; the relay hears no more of it.
    pub fn new_source_port(&self) {
        self.conditions.send_modify(|now| now.rebinds += 1);
    }

    /// Every TCP connection is reset, towards both its ends.
    pub fn reset(&self) {
        self.conditions.send_modify(|now| now.resets += 1);
    }
}

impl Conditions {
    fn is_silent(&self, protocol: Protocol, way: Way) -> bool {
        self.silent[protocol as usize][way as usize]
    }
}

/// Returns once what entered then is at the other end, and as things stand by then.
async fn arrival(conditions: &mut watch::Receiver<Conditions>, entered: Instant) -> Option<Conditions> {
    let delay = conditions.borrow().delay;
    sleep_until(entered + delay).await;
    // None: nobody is there any more who could end the pause.
    conditions.wait_for(|now| !now.paused).await.ok().map(|now| *now)
}

/// A port that is free for TCP is mostly free for UDP too.
async fn one_port() -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if tries == PORTS => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

#[cfg(test)]
mod tests;
