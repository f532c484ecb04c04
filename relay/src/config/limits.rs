//! How long and how much a service's front door bears. Holds the numbers and their reasons; the door enforces them.

use std::time::Duration;

/// The limits of one service. Every wait on a caller or an upstream is bounded by one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accepting a connection, or from a request's first byte on a kept one, to the end of its head.
    pub head_read: Duration,
    /// How long a connection may stand idle between two requests.
    pub keep_alive: Duration,
    /// Between two pieces of a request's body.
    pub body_idle: Duration,
    /// To connect to the upstream.
    pub connect: Duration,
    /// From the whole request sent to the response's head.
    pub response_head: Duration,
    /// Between two pieces of a response's body, and of a connection that was upgraded.
    pub response_idle: Duration,
    /// How long a caller may take no byte of a response.
    pub write_idle: Duration,
    /// Callers' connections at once.
    pub connections: usize,
    /// Of those, from one address.
    pub connections_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Slow callers are cut off where nginx and Envoy cut them off.
            head_read: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            // Within a cluster: a connection that takes longer is to a machine that is gone.
            connect: Duration::from_secs(5),
            // What most servers give themselves to answer.
            response_head: Duration::from_secs(60),
            // Event streams and WebSockets are silent for long; an hour is what Envoy allows.
            response_idle: Duration::from_secs(60 * 60),
            write_idle: Duration::from_secs(60),
            connections: 10_000,
            connections_per_address: 1_000,
        }
    }
}
