//! `culvert status`: how the running clients of this user are, as they say themselves.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use culvert_protocol::hello::UnixMillis;
use serde::Serialize;

use super::{CommandError, Global, Surroundings, print};
use crate::screen::{ago, shown, until};
use crate::status::{ReplicaStatus, Status, TunnelStatus};

/// Show what the running clients on this machine are connected to, and how
#[derive(Debug, clap::Args)]
pub struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, global: &Global, around: &Surroundings) -> Result<(), CommandError> {
        let mut clients = around.counter()?.status().await.map_err(CommandError::Counter)?;
        if !global.relay.is_empty() {
            clients.retain(|client| global.relay.iter().any(|relay| client.relay == relay.to_string()));
        }
        let now = UnixMillis::from(SystemTime::now());
        let data = Data { clients };
        print(&around.screen, global.output, &data, || data.table(now))
    }
}

/// What is printed on stdout with `-o json` and `-o yaml`. Fields are added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Data {
    clients: Vec<Status>,
}

impl Data {
    fn table(&self, now: UnixMillis) -> String {
        if self.clients.is_empty() {
            return "no client is running\n".to_owned();
        }
        let mut text = String::new();
        for client in &self.clients {
            tell(&mut text, client, now);
        }
        text
    }
}

/// A paragraph for each client. Writing to a String does not fail.
fn tell(text: &mut String, client: &Status, now: UnixMillis) {
    let identity = client.identity.as_deref().unwrap_or("nobody yet");
    let state = match (client.in_force, &client.trouble) {
        (true, _) => "connected".to_owned(),
        (false, Some(why)) => format!("not connected: {}", shown(why)),
        (false, None) => "connecting".to_owned(),
    };
    let since = ago(UnixMillis(client.since_ms), now);
    let (relay, identity) = (shown(&client.relay), shown(identity));
    let _ = writeln!(text, "{relay} as {identity}: {state} (process {}, started {since})", client.process);
    for claim in &client.claims {
        let (name, matcher, app) = (shown(&claim.name), shown(&claim.matcher), shown(&claim.app));
        let state = if claim.in_force { "in force" } else { "not in force" };
        let policy = &claim.on_unreachable;
        let service = shown(&claim.service);
        let _ = write!(text, "  claim {name}: {service} {matcher} -> {app}, {policy}, {state}");
        if let Some(end) = claim.expires_ms {
            let _ = write!(text, ", ends {}", until(UnixMillis(end), now));
        }
        text.push('\n');
    }
    for replica in &client.replicas {
        tell_replica(text, replica, now);
    }
}

fn tell_replica(text: &mut String, replica: &ReplicaStatus, now: UnixMillis) {
    let rung = replica.transport.as_deref().unwrap_or("not reached");
    let _ = writeln!(text, "  replica {}: {}", shown(&replica.id), shown(rung));
    for tunnel in &replica.tunnels {
        let _ = writeln!(text, "    {}", tunnel_line(tunnel, now));
    }
    for missed in &replica.not_used {
        let _ = writeln!(text, "    not {}: {}", shown(&missed.transport), shown(&missed.why));
    }
}

fn tunnel_line(tunnel: &TunnelStatus, now: UnixMillis) -> String {
    let mut line = shown(&tunnel.transport);
    if let Some(address) = &tunnel.address {
        let _ = write!(line, " to {}", shown(address));
    }
    let _ = write!(line, ", {}", shown(&tunnel.state));
    if let Some(rtt) = tunnel.rtt_us {
        let _ = write!(line, ", round trip {:.1?}", Duration::from_micros(rtt));
    }
    let since = ago(UnixMillis(tunnel.since_ms), now);
    let (sent, received) = (bytes(tunnel.sent_bytes), bytes(tunnel.received_bytes));
    let _ = write!(line, ", since {since}, sent {sent}, received {received}");
    if let Some(udp) = tunnel.udp_buffers {
        let (receive, send, wanted) =
            (bytes(udp.receive_bytes), bytes(udp.send_bytes), bytes(udp.wanted_bytes));
        let _ = write!(line, ", UDP buffers {receive} in and {send} out of {wanted}");
    }
    line
}

fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        // Exact to the tenth that is shown.
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ClaimStatus, NotUsed, UdpBuffersStatus};

    fn client() -> Status {
        Status {
            process: 7,
            relay: "relay:4433".to_owned(),
            identity: Some("alice".to_owned()),
            in_force: true,
            trouble: None,
            since_ms: 9_880_000,
            replicas: vec![ReplicaStatus {
                id: "r1".to_owned(),
                transport: Some("tls".to_owned()),
                not_used: vec![NotUsed { transport: "quic".to_owned(), why: "no answer".to_owned() }],
                tunnels: vec![TunnelStatus {
                    transport: "tls".to_owned(),
                    state: "in force".to_owned(),
                    address: Some("10.0.0.1:4433".to_owned()),
                    rtt_us: Some(12_345),
                    since_ms: 9_880_000,
                    sent_bytes: 1_600_000,
                    received_bytes: 17,
                    udp_buffers: Some(UdpBuffersStatus {
                        receive_bytes: 212_992,
                        send_bytes: 212_992,
                        wanted_bytes: 4 << 20,
                    }),
                }],
            }],
            claims: vec![ClaimStatus {
                name: "orders:x-user=alice".to_owned(),
                service: "orders".to_owned(),
                matcher: "x-user=alice".to_owned(),
                app: "127.0.0.1:9002".to_owned(),
                on_unreachable: "hold:3s".to_owned(),
                in_force: true,
                expires_ms: Some(13_600_000),
            }],
        }
    }

    #[test]
    fn the_table_says_what_is_used_and_why_nothing_better_is() {
        let now = UnixMillis(10_000_000);
        assert_eq!(
            Data { clients: vec![client()] }.table(now),
            "relay:4433 as alice: connected (process 7, started 2m ago)\n\
             \x20 claim orders:x-user=alice: orders x-user=alice -> 127.0.0.1:9002, hold:3s, in force, ends in 1h\n\
             \x20 replica r1: tls\n\
             \x20   tls to 10.0.0.1:4433, in force, round trip 12.3ms, since 2m ago, sent 1.5 MiB, received 17 B, \
             UDP buffers 208.0 KiB in and 208.0 KiB out of 4.0 MiB\n\
             \x20   not quic: no answer\n"
        );
        assert_eq!(Data { clients: Vec::new() }.table(now), "no client is running\n");
    }

    #[test]
    fn the_json_shape_is_stable() {
        let json = serde_json::to_value(Data { clients: vec![client()] }).unwrap();
        let expected = serde_json::json!({"clients": [{
            "process": 7, "relay": "relay:4433", "identity": "alice", "in_force": true, "trouble": null,
            "since_ms": 9_880_000,
            "replicas": [{
                "id": "r1", "transport": "tls", "not_used": [{"transport": "quic", "why": "no answer"}],
                "tunnels": [{
                    "transport": "tls", "state": "in force", "address": "10.0.0.1:4433", "rtt_us": 12345,
                    "since_ms": 9_880_000, "sent_bytes": 1_600_000, "received_bytes": 17,
                    "udp_buffers": {"receive_bytes": 212_992, "send_bytes": 212_992, "wanted_bytes": 4_194_304},
                }],
            }],
            "claims": [{
                "name": "orders:x-user=alice", "service": "orders", "match": "x-user=alice",
                "app": "127.0.0.1:9002", "on_unreachable": "hold:3s", "in_force": true, "expires_ms": 13_600_000,
            }],
        }]});
        assert_eq!(json, expected);
        // A client of before that field answers too.
        let older = serde_json::json!({
            "name": "n", "service": "s", "match": "m", "app": "a", "on_unreachable": "upstream", "in_force": true,
        });
        assert_eq!(serde_json::from_value::<ClaimStatus>(older).unwrap().expires_ms, None);
    }
}
