//! TCP connections through a [`super::Flaky`]: each is two, joined by a queue in each direction in which bytes are under way.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Conditions, Protocol, Way, arrival};

/// Others are closed at once.
const CONNECTIONS: usize = 1024;

/// What is read at once.
const PIECE: usize = 16 * 1024;

/// Pieces under way in each direction, 1 MiB: a sender then waits.
const UNDER_WAY: usize = 64;

/// What is lost together.
const SEGMENT: usize = 1400;

/// How long a sender takes to see that a segment is lost, beside a round trip.
const NOTICED: Duration = Duration::from_millis(10);

/// How long a relay is left with a connection that its client has lost.
const ORPHANED: Duration = Duration::from_secs(60);

pub(super) async fn carry(listener: TcpListener, conditions: watch::Receiver<Conditions>) {
    let mut connections = JoinSet::new();
    loop {
        // Out of files, or a client that is gone already: neither ends for being asked again at once.
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() < CONNECTIONS {
            connections.spawn(pass(client, conditions.clone()));
        }
    }
}

/// How a connection ended, if not by itself.
enum Broken {
    Reset,
    Rebound,
}

async fn pass(mut client: TcpStream, mut conditions: watch::Receiver<Conditions>) {
    let begun = *conditions.borrow();
    // The client is connected already, without having waited for a round trip: that is made up for here.
    let Some(_) = arrival(&mut conditions, Instant::now() + begun.delay).await else { return };
    if conditions.wait_for(|now| !now.is_silent(Protocol::Tcp, Way::Up)).await.is_err() {
        return;
    }
    let Ok(mut relay) = TcpStream::connect(begun.relay).await else {
        return abort(&client);
    };
    // Small messages are not to wait for one another here; whether they may is the ends' to say.
    let _ = (client.set_nodelay(true), relay.set_nodelay(true));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_relay, to_relay) = relay.split();
        let both = async {
            tokio::try_join!(
                carry_way(from_client, to_relay, Way::Up, conditions.clone()),
                carry_way(from_relay, to_client, Way::Down, conditions.clone()),
            )
        };
        let mut changes = conditions.clone();
        let broken = changes.wait_for(|now| now.resets != begun.resets || now.rebinds != begun.rebinds);
        tokio::select! {
            carried = both => carried.map(|_| None).unwrap_or(Some(Broken::Reset)),
            now = broken => match now {
                Ok(now) if now.rebinds != begun.rebinds => Some(Broken::Rebound),
                _ => Some(Broken::Reset),
            },
        }
    };
    match ended {
        None => {}
        Some(Broken::Reset) => {
            abort(&client);
            abort(&relay);
        }
        Some(Broken::Rebound) => {
            abort(&client);
            drop(client);
            // Read and thrown away, so that what the relay sends is not refused, which would tell it.
            let silence = async {
                let mut piece = vec![0; PIECE];
                while matches!(relay.read(&mut piece).await, Ok(read) if read != 0) {}
            };
            let _ = timeout(ORPHANED, silence).await;
        }
    }
}

async fn carry_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut conditions: watch::Receiver<Conditions>,
) -> io::Result<()> {
    let (entering, mut under_way) = mpsc::channel::<(Instant, io::Result<Vec<u8>>)>(UNDER_WAY);
    let reading = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let read = from.read(&mut piece).await.map(|length| piece[..length].to_vec());
            let over = !matches!(&read, Ok(bytes) if !bytes.is_empty());
            if entering.send((Instant::now(), read)).await.is_err() || over {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((entered, read)) = under_way.recv().await {
            let Some(now) = arrival(&mut conditions, entered).await else { break };
            if let Ok(bytes) = &read
                && lost(bytes.len(), now.loss)
            {
                sleep(now.delay * 2 + NOTICED).await;
            }
            if conditions.wait_for(|now| !now.paused && !now.is_silent(Protocol::Tcp, way)).await.is_err() {
                break;
            }
            // An end and a reset arrive like everything else.
            let bytes = read?;
            if bytes.is_empty() {
                break;
            }
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Whether one of so many bytes' segments is.
fn lost(bytes: usize, share: f64) -> bool {
    (0..bytes.div_ceil(SEGMENT)).any(|_| rand::random_bool(share))
}

/// Closing it then sends a reset.
fn abort(stream: &TcpStream) {
    // A connection that is gone already needs none.
    let _ = stream.set_zero_linger();
}
