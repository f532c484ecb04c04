//! What the relay counts, under the names that dashboards read. Everything that a request touches is resolved before
//! it comes: atomics behind one [`Arc`], no lookup, no lock. Holds no request data: every label's values are a closed
//! set known at the start or at compile time, so that no caller can grow what is kept here.

mod latency;
mod service;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use service::{Exchanged, LeftOut, Reached, ServiceMetrics};

/// Labels with one name, whose values the code spells out.
type Labels = [(&'static str, &'static str); 1];

/// The whole relay's.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    services: service::Families,
    pub tunnels: TunnelMetrics,
}

/// What happens on the tunnel port.
#[derive(Clone, Debug, Default)]
pub struct TunnelMetrics {
    up: Family<Labels, Gauge>,
    down: Family<Labels, Counter>,
    revived: Counter,
    refused: Family<Labels, Counter>,
    joins: Family<Labels, Counter>,
    claims: Family<Labels, Counter>,
    /// Claims in force.
    pub intercepts: Gauge,
    /// Control messages of a type that this version does not know.
    pub unknown_messages: Counter,
    /// Streams that clients opened beside the control stream.
    pub stray_streams: Counter,
    /// Tasks that ended in a panic: must stay at 0.
    pub panics: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("culvert");
        let services = service::Families::register(&mut registry);
        let tunnels = TunnelMetrics::register(&mut registry);
        Self { registry, services, tunnels }
    }

    /// The counters of one service. Asked for once per service, when the relay starts.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        Arc::new(self.services.resolve(name))
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string does not fail; half an exposition would be read as a restart.
            Err(std::fmt::Error) => "# EOF\n".to_owned(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl TunnelMetrics {
    fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register("tunnels", "Tunnels that are up", own.up.clone());
        registry.register("tunnel_down", "Tunnels that ended or fell silent, by why", own.down.clone());
        registry.register(
            "tunnel_revived",
            "Silent tunnels that could be reached again",
            own.revived.clone(),
        );
        registry.register("tunnel_refused", "Connections that became no tunnel, by why", own.refused.clone());
        registry.register("joins", "Enrolments, by outcome", own.joins.clone());
        registry.register("intercept_claims", "Answers to claims, by outcome", own.claims.clone());
        registry.register("intercepts", "Intercepts in force", own.intercepts.clone());
        registry.register(
            "tunnel_unknown_messages",
            "Control messages of a type unknown to this version",
            own.unknown_messages.clone(),
        );
        registry.register(
            "tunnel_stray_streams",
            "Streams that clients opened toward the relay, all of them reset",
            own.stray_streams.clone(),
        );
        registry.register("panics", "Tasks that panicked; must be 0", own.panics.clone());
        own
    }

    /// Counts a tunnel as up until the guard is dropped.
    pub(crate) fn up(&self, transport: &'static str) -> Up {
        let gauge = self.up.get_or_create_owned(&[("transport", transport)]);
        gauge.inc();
        Up(gauge)
    }

    pub(crate) fn down(&self, reason: &'static str) {
        self.down.get_or_create(&[("reason", reason)]).inc();
    }

    /// A tunnel that was down for silence is up again.
    pub(crate) fn revived(&self) {
        self.revived.inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn joined(&self, outcome: &'static str) {
        self.joins.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn claimed(&self, outcome: &'static str) {
        self.claims.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// A tunnel that is up.
#[derive(Debug)]
pub(crate) struct Up(Gauge);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn exchanged(destination: Reached, status: u16, failure: Option<&'static str>) -> Exchanged {
        Exchanged {
            destination,
            status,
            failure,
            took: Duration::from_millis(3),
            request_bytes: 10,
            response_bytes: 100,
        }
    }

    #[test]
    fn a_dashboard_finds_every_request_once() {
        let metrics = Metrics::new();
        let orders = metrics.service("orders");
        orders.record(&exchanged(Reached::Upstream, 200, None));
        orders.record(&exchanged(Reached::Tunnel, 204, None));
        orders.record(&exchanged(Reached::Relay, 502, Some("upstream_refused")));
        orders.rejected("head_too_large");
        orders.left_out(LeftOut::Underscore, 2);
        orders.callers.inc();
        metrics.tunnels.joined("denied");
        let up = metrics.tunnels.up("quic");
        let text = metrics.encode();
        for line in [
            r#"culvert_requests_total{service="orders",destination="upstream",class="2xx"} 1"#,
            r#"culvert_requests_total{service="orders",destination="tunnel",class="2xx"} 1"#,
            r#"culvert_requests_total{service="orders",destination="relay",class="5xx"} 1"#,
            r#"culvert_failures_total{service="orders",failure="upstream_refused"} 1"#,
            r#"culvert_requests_rejected_total{service="orders",code="head_too_large"} 1"#,
            r#"culvert_fields_left_out_total{service="orders",why="underscore"} 2"#,
            r#"culvert_fields_left_out_total{service="orders",why="steering"} 0"#,
            r#"culvert_request_bytes_total{service="orders"} 30"#,
            r#"culvert_response_bytes_total{service="orders"} 300"#,
            r#"culvert_request_seconds_bucket{le="0.005",service="orders",destination="tunnel"} 1"#,
            r#"culvert_request_seconds_bucket{le="+Inf",service="orders",destination="tunnel"} 1"#,
            r#"culvert_request_seconds_count{service="orders",destination="upstream"} 1"#,
            r#"culvert_callers{service="orders"} 1"#,
            r#"culvert_joins_total{outcome="denied"} 1"#,
            r#"culvert_tunnels{transport="quic"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(up);
        assert!(metrics.encode().contains(r#"culvert_tunnels{transport="quic"} 0"#));
    }
}
