//! Tunnels over QUIC: who is let try, and the handshake.

use std::sync::Arc;
use std::time::Duration;

use culvert_certs::Identity;
use culvert_protocol::tunnel::Tunnel;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

mod crypto;

pub(super) use crypto::Crypto;

use super::leaving::Turned;
use super::strangers::{Bounds, Line, Room, Seat};
use super::tls::Configs;
use super::{Arrival, HANDSHAKE, Peer, Port, run};

/// Each is a packet or two, and may keep the 64 KiB that they arrived in: 256 MiB, if all of them meant harm. A client waits for 12 s
/// once it was asked to prove its address.
pub(super) const LINE: Bounds = Bounds { length: 4_096, patience: Duration::from_secs(10) };

/// Takes connections in until the relay drains.
pub(super) async fn accept(endpoint: &quinn::Endpoint, tls: &Arc<Configs>, port: &Arc<Port>) {
    let seats = &port.strangers.quic;
    let mut line = Line::new(LINE);
    loop {
        let incoming = tokio::select! {
            biased;
            () = port.drain.cancelled() => break,
            () = line.tired() => {
                line.leave();
                continue;
            }
            () = seats.freed(), if !line.is_empty() => {
                while let Some((seat, incoming)) = line.next(seats) {
                    spawn(incoming, seat, tls, port);
                }
                continue;
            }
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let (address, proven) = (incoming.remote_address().ip(), incoming.remote_address_validated());
        // While others wait nobody is seated on their word: what a client says again before it has read our answer would look
        // like another client, who never goes on.
        let room = if line.is_empty() || proven { seats.room(address, proven) } else { Room::Unproven };
        match room {
            Room::Seat(seat) => spawn(incoming, seat, tls, port),
            Room::None if proven => {
                if let Err(incoming) = line.join(address, incoming) {
                    busy(incoming, port);
                }
            }
            // Whoever has proved it may wait for a seat.
            Room::None | Room::Unproven => {
                port.metrics.refused("retry");
                // Fails only for an address that is proven already, which was seen to above.
                let _ = incoming.retry();
            }
        }
    }
    endpoint.set_server_config(None);
}

fn busy(incoming: quinn::Incoming, port: &Port) {
    port.metrics.refused("busy");
    // Not refused: there may be room by the time that it is said again.
    incoming.ignore();
}

fn spawn(incoming: quinn::Incoming, seat: Seat, tls: &Arc<Configs>, port: &Arc<Port>) {
    port.tasks.spawn(run(Arrival::Quic(Box::new(incoming)), seat, Arc::clone(tls), Arc::clone(port)));
}

/// The seat is held until it is known who is there.
pub(super) async fn handshake(incoming: quinn::Incoming, _seat: Seat) -> Result<Peer, Turned> {
    let garbage = |error: quinn::ConnectionError| Turned::Handshake(error.to_string());
    let connecting = incoming.accept().map_err(garbage)?;
    let connection = timeout(HANDSHAKE, connecting).await.map_err(|_| Turned::Slow)?.map_err(garbage)?;
    let presented =
        connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'_>>>().ok());
    // rustls lets nobody without a certificate this far; it is asked for all the same.
    let certificate = presented.as_ref().and_then(|chain| chain.first()).ok_or(Turned::NoCertificate)?;
    let identity = Identity::from_verified(certificate)?;
    Ok(Peer { tunnel: Tunnel::quic(connection), identity })
}
