//! What a running client says of itself, to its own user and nobody else. Decides nothing about the session.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[cfg(unix)]
mod counter;
#[cfg(not(unix))]
#[path = "status/no_counter.rs"]
mod counter;

pub use counter::{Clerk, Counter};

/// A running client. Fields are added, never renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub process: u32,
    /// As it was dialled.
    pub relay: String,
    /// Who the relay takes us for.
    pub identity: Option<String>,
    /// Every claim is in force.
    pub in_force: bool,
    /// Why not, or why not before.
    pub trouble: Option<String>,
    pub since_ms: u64,
    pub replicas: Vec<ReplicaStatus>,
    pub claims: Vec<ClaimStatus>,
}

/// One replica of the relay, and the tunnels to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub id: String,
    /// The best rung of its tunnels; none while it cannot be reached.
    pub transport: Option<String>,
    pub not_used: Vec<NotUsed>,
    pub tunnels: Vec<TunnelStatus>,
}

/// A rung that does not carry the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotUsed {
    pub transport: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    pub transport: String,
    /// `joining`, `in force`, `in doubt` or `leaving`.
    pub state: String,
    pub address: Option<String>,
    pub rtt_us: Option<u64>,
    pub since_ms: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// What the system granted, over QUIC.
    pub udp_buffers: Option<UdpBuffersStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpBuffersStatus {
    pub receive_bytes: u64,
    pub send_bytes: u64,
    pub wanted_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    pub name: String,
    pub service: String,
    #[serde(rename = "match")]
    pub matcher: String,
    pub app: String,
    pub on_unreachable: String,
    pub in_force: bool,
    /// When the time of its `--ttl` is over, by the relay's clock. None: no such time, or not known yet.
    pub expires_ms: Option<u64>,
}

/// `$XDG_RUNTIME_DIR/culvert`, or beside what else is kept where there is no such directory.
pub fn directory(xdg_runtime: Option<&Path>, state: Option<PathBuf>) -> Option<PathBuf> {
    let runtime = xdg_runtime.filter(|path| path.is_absolute()).map(|path| path.join("culvert"));
    runtime.or_else(|| Some(state?.join("run")))
}
