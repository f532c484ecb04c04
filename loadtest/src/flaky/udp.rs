//! Datagrams through a [`super::Flaky`]: each client's port has a port of its own towards the relay, as behind a NAT, until
//! that is changed.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Conditions, Protocol, Way, arrival};

/// Under way in each direction of a flow, or else lost: 6 MB of full datagrams, what 100 Mbit/s hold in half a second.
const UNDER_WAY: usize = 4096;

/// As many clients' ports are known at once; those of others are not answered.
const FLOWS: usize = 1024;

/// A flow of which nothing came up for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// The largest that there can be.
const DATAGRAM: usize = 65_535;

/// When it came, and what.
type Datagram = (Instant, Vec<u8>);

pub(super) async fn carry(socket: UdpSocket, conditions: watch::Receiver<Conditions>) {
    let socket = Arc::new(socket);
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Datagram>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error is about an earlier datagram, to a client that is gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        while tasks.try_join_next().is_some() {}
        if flows.get(&client).is_none_or(mpsc::Sender::is_closed) {
            flows.retain(|_, flow| !flow.is_closed());
            if flows.len() >= FLOWS {
                continue;
            }
            let (up, from_client) = mpsc::channel(UNDER_WAY);
            flows.insert(client, up);
            let flow = Flow { client, socket: Arc::clone(&socket), conditions: conditions.clone() };
            tasks.spawn(flow.pass(from_client));
        }
        if let Some(flow) = flows.get(&client) {
            // Full: lost.
            let _ = flow.try_send((Instant::now(), buffer[..length].to_vec()));
        }
    }
}

struct Flow {
    client: SocketAddr,
    /// What the client sends to, and is answered from.
    socket: Arc<UdpSocket>,
    conditions: watch::Receiver<Conditions>,
}

impl Flow {
    /// Until nothing came for a long time.
    async fn pass(self, from_client: mpsc::Receiver<Datagram>) {
        let relay = self.conditions.borrow().relay;
        let Ok(first) = outward(relay).await else { return };
        let outward = watch::Sender::new(Arc::new(first));
        let (down, from_relay) = mpsc::channel(UNDER_WAY);
        tokio::select! {
            () = self.up(from_client, outward.subscribe()) => {}
            () = take(outward.subscribe(), down) => {}
            () = self.down(from_relay) => {}
            () = self.rebind(relay, &outward) => {}
        }
    }

    async fn up(&self, mut from_client: mpsc::Receiver<Datagram>, outward: watch::Receiver<Arc<UdpSocket>>) {
        let mut conditions = self.conditions.clone();
        while let Ok(Some((entered, datagram))) = timeout(FORGOTTEN, from_client.recv()).await {
            let Some(now) = arrival(&mut conditions, entered).await else { return };
            if !now.is_silent(Protocol::Udp, Way::Up) && !rand::random_bool(now.loss) {
                let socket = Arc::clone(&outward.borrow());
                // What cannot be sent is lost.
                let _ = socket.send(&datagram).await;
            }
        }
    }

    async fn down(&self, mut from_relay: mpsc::Receiver<Datagram>) {
        let mut conditions = self.conditions.clone();
        let mut answers = 0;
        while let Some((entered, datagram)) = from_relay.recv().await {
            let Some(now) = arrival(&mut conditions, entered).await else { return };
            answers += 1;
            let passes = now.answers.is_none_or(|most| answers <= most);
            if passes && !now.is_silent(Protocol::Udp, Way::Down) && !rand::random_bool(now.loss) {
                let _ = self.socket.send_to(&datagram, self.client).await;
            }
        }
    }

    /// What the relay sends to the former port reaches nobody.
    async fn rebind(&self, relay: SocketAddr, current: &watch::Sender<Arc<UdpSocket>>) {
        let mut conditions = self.conditions.clone();
        let mut seen = conditions.borrow().rebinds;
        while let Ok(rebinds) = conditions.wait_for(|now| now.rebinds != seen).await.map(|now| now.rebinds) {
            seen = rebinds;
            let Ok(next) = outward(relay).await else { return };
            current.send_replace(Arc::new(next));
        }
    }
}

/// Reads from whichever port is the current one.
async fn take(mut outward: watch::Receiver<Arc<UdpSocket>>, down: mpsc::Sender<Datagram>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let socket = Arc::clone(&outward.borrow_and_update());
        tokio::select! {
            changed = outward.changed() => if changed.is_err() { return },
            // An error says that the relay's port is closed: to a client behind a NAT that is silence.
            received = socket.recv(&mut buffer) => if let Ok(length) = received {
                let _ = down.try_send((Instant::now(), buffer[..length].to_vec()));
            },
        }
    }
}

async fn outward(relay: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(relay).await?;
    Ok(socket)
}
