//! A relay that was killed and started again knocks where its tunnels over QUIC were: a client at rest asks at once whether the
//! relay is there, in place of with its next ping, learns that it knows nothing of the tunnel, and dials again. Keeps for the
//! next start where they are now ([`seen`]). Nothing waits for any of this, and whoever is not told notices as before.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use culvert_protocol::tunnel::KNOCK;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::registry::Registry;

mod seen;

use seen::{MOST, Seen, SeenError};

/// 2,000 in a second: five thousand clients come back no closer together than they did by their own pings.
const AT_ONCE: usize = 50;
const BETWEEN: Duration = Duration::from_millis(25);

/// How often it is looked where tunnels are. One that is younger is not knocked for.
const LOOK: Duration = Duration::from_secs(1);

/// So many looks from one write to the next where nothing has changed: the file's age tells the next start how long nobody was here.
const LOOKS_PER_WRITE: u32 = 5;

#[derive(Debug)]
pub(super) struct Knocker {
    /// The endpoint's: only what comes from the relay's own address gets through to its clients.
    socket: UdpSocket,
    seen: Seen,
}

impl Knocker {
    pub(super) fn new(socket: UdpSocket, data: &Path) -> Self {
        Self { socket, seen: Seen::in_directory(data) }
    }

    /// Knocks, and then writes down where tunnels are, until `close`.
    pub(super) async fn run(self, registry: &Registry, close: CancellationToken) {
        let Self { socket, seen } = self;
        // Not one after the other: what comes back is to be written down while others are yet to be knocked for.
        tokio::join!(
            async {
                tokio::select! {
                    () = close.cancelled() => {}
                    () = knock_for(&socket, seen.clone()) => {}
                }
            },
            keep(&seen, registry, &close)
        );
    }
}

async fn knock_for(socket: &UdpSocket, seen: Seen) {
    let read = done(spawn_blocking(move || seen.read(SystemTime::now())).await);
    let former = read.unwrap_or_else(|error| {
        warn!("{error}: tunnels of before find out by themselves that the relay is back");
        Vec::new()
    });
    if !former.is_empty() {
        info!(tunnels = former.len(), "telling clients that the relay is back");
    }
    // A packet that is lost is as good as none.
    paced(&former, |address| drop(socket.send_to(&KNOCK, address))).await;
}

/// Never so many at once that they, or what they bring, drown one another.
async fn paced(addresses: &[SocketAddr], mut knock: impl FnMut(SocketAddr)) {
    for some in addresses.chunks(AT_ONCE) {
        some.iter().copied().for_each(&mut knock);
        sleep(BETWEEN).await;
    }
}

async fn keep(seen: &Seen, registry: &Registry, close: &CancellationToken) {
    // Whoever had a tunnel in the former life stays written down until somebody has one in this: it may be a short one.
    let mut written = Vec::new();
    let mut looks = 0_u32;
    let mut failed = false;
    loop {
        tokio::select! {
            () = close.cancelled() => break,
            () = sleep(LOOK) => {}
        }
        let now = registry.quic_addresses(MOST);
        looks = looks.saturating_add(1);
        if now == written && (now.is_empty() || looks < LOOKS_PER_WRITE) {
            continue;
        }
        looks = 0;
        let (file, addresses) = (seen.clone(), now.clone());
        let write = spawn_blocking(move || file.write(&addresses));
        // A disk may take its time; what ends does not wait for it.
        let outcome = tokio::select! {
            () = close.cancelled() => break,
            over = write => done(over),
        };
        match outcome {
            Ok(()) => failed = false,
            // Once, and not every few seconds.
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    warn!("{error}: after a restart clients will take seconds longer to notice it");
                }
            }
        }
        written = now;
    }
    // They were told that the relay goes.
    let file = seen.clone();
    let _ = spawn_blocking(move || file.remove()).await;
}

fn done<T>(outcome: Result<Result<T, SeenError>, JoinError>) -> Result<T, SeenError> {
    outcome.unwrap_or_else(|stopped| Err(SeenError::Stopped(io::Error::other(stopped))))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thousands_are_knocked_for_once_each_and_never_in_one_burst() {
        let all: Vec<SocketAddr> =
            (1..=5_000).map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).collect();
        let begun = Instant::now();
        let mut knocked = Vec::new();
        paced(&all, |address| knocked.push((begun.elapsed(), address))).await;
        assert_eq!(knocked.iter().map(|(_, address)| *address).collect::<Vec<_>>(), all);
        for burst in knocked.chunk_by(|(one, _), (other, _)| one == other) {
            assert!(burst.len() <= AT_ONCE);
        }
        let last = knocked.last().unwrap().0;
        assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&last), "{last:?}");
    }
}
