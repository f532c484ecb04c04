//! One service's counters, as the front door holds them.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::latency::Latency;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Upstream,
    Tunnel,
    /// The relay itself: a refusal or a failure.
    Relay,
}

/// What one exchange was, written exactly once when it is over.
#[derive(Clone, Debug)]
pub struct Exchanged {
    pub destination: Reached,
    pub status: u16,
    /// The failure's label, when the relay answered or cut the answer short.
    pub failure: Option<&'static str>,
    pub took: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Why a field of a request was left out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Its name was one that decides, said with `_`.
    Underscore,
    /// It steers, and came to a public door.
    Steering,
}

/// What one service's front door counts.
#[derive(Debug)]
pub struct ServiceMetrics {
    /// By who answered and by the status' hundreds.
    requests: [[Counter; CLASSES.len()]; DESTINATIONS.len()],
    seconds: [Latency; DESTINATIONS.len()],
    request_bytes: Counter,
    response_bytes: Counter,
    /// Callers' connections that are open.
    pub callers: Gauge,
    /// Connections opened to the upstream.
    pub upstream_connects: Counter,
    /// Requests sent again because a pooled connection had been closed under them.
    pub upstream_retries: Counter,
    /// Callers that wait for a developer, and how long each did.
    held: Gauge,
    hold: Latency,
    /// In the order of [`LEFT_OUT`].
    left_out: [Counter; LEFT_OUT.len()],
    service: String,
    failures: Family<Failed, Counter>,
    rejections: Family<Rejected, Counter>,
}

impl ServiceMetrics {
    pub fn record(&self, exchanged: &Exchanged) {
        let destination = exchanged.destination.index();
        // A status outside 100 to 599 is refused when the head is parsed; the last class takes it all the same.
        let class = usize::from(exchanged.status / 100).clamp(1, CLASSES.len()) - 1;
        if let Some(counter) = self.requests.get(destination).and_then(|by_class| by_class.get(class)) {
            counter.inc();
        }
        if let Some(seconds) = self.seconds.get(destination) {
            seconds.observe(exchanged.took);
        }
        self.request_bytes.inc_by(exchanged.request_bytes);
        self.response_bytes.inc_by(exchanged.response_bytes);
        if let Some(failure) = exchanged.failure {
            self.failures.get_or_create(&Failed { service: self.service.clone(), failure }).inc();
        }
    }

    /// Counts a caller that waits for a developer until the guard is dropped.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.held.inc();
        Held { of: self, since: Instant::now() }
    }

    /// So many fields of a request were left out of it.
    pub fn left_out(&self, why: LeftOut, count: u64) {
        let [underscore, steering] = &self.left_out;
        if count > 0 {
            match why {
                LeftOut::Underscore => underscore.inc_by(count),
                LeftOut::Steering => steering.inc_by(count),
            };
        }
    }

    /// A request that was refused before it had a destination. Labels are spelt out in the code, never taken from input.
    pub fn rejected(&self, label: &'static str) {
        self.rejections.get_or_create(&Rejected { service: self.service.clone(), code: label }).inc();
    }
}

/// A caller that waits for a developer.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    of: &'a ServiceMetrics,
    since: Instant,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.held.dec();
        self.of.hold.observe(self.since.elapsed());
    }
}

impl Reached {
    fn index(self) -> usize {
        match self {
            Self::Upstream => 0,
            Self::Tunnel => 1,
            Self::Relay => 2,
        }
    }
}

/// In the order of [`Reached::index`].
const DESTINATIONS: [&str; 3] = ["upstream", "tunnel", "relay"];
const LEFT_OUT: [&str; 2] = ["underscore", "steering"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The families that every service has a part of.
#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    requests: Family<Requests, Counter>,
    seconds: Family<Answered, Latency>,
    request_bytes: Family<Service, Counter>,
    response_bytes: Family<Service, Counter>,
    callers: Family<Service, Gauge>,
    upstream_connects: Family<Service, Counter>,
    upstream_retries: Family<Service, Counter>,
    held: Family<Service, Gauge>,
    hold: Family<Service, Latency>,
    left_out: Family<Withheld, Counter>,
    failures: Family<Failed, Counter>,
    rejections: Family<Rejected, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    service: String,
    destination: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    service: String,
    destination: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Withheld {
    service: String,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    service: String,
    failure: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    service: String,
    code: &'static str,
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register("requests", "Requests, by who answered", own.requests.clone());
        registry.register_with_unit(
            "request",
            "From a request's first byte to the last one of its answer",
            Unit::Seconds,
            own.seconds.clone(),
        );
        registry.register_with_unit("request", "Of requests' bodies", Unit::Bytes, own.request_bytes.clone());
        registry.register_with_unit(
            "response",
            "Of responses' bodies",
            Unit::Bytes,
            own.response_bytes.clone(),
        );
        registry.register("callers", "Callers' open connections", own.callers.clone());
        registry.register(
            "upstream_connects",
            "Connections opened to the upstream",
            own.upstream_connects.clone(),
        );
        registry.register(
            "upstream_retries",
            "Requests sent again, because a kept connection to the upstream was closed under them",
            own.upstream_retries.clone(),
        );
        registry.register(
            "held_requests",
            "Callers that wait for a developer to come back",
            own.held.clone(),
        );
        registry.register_with_unit(
            "hold",
            "How long callers waited for a developer to come back, or for nothing",
            Unit::Seconds,
            own.hold.clone(),
        );
        registry.register(
            "fields_left_out",
            "Fields of requests that were not passed on, by why",
            own.left_out.clone(),
        );
        registry.register("failures", "Requests that the relay failed, by why", own.failures.clone());
        registry.register("requests_rejected", "Requests refused, by why", own.rejections.clone());
        own
    }

    pub(super) fn resolve(&self, name: &str) -> ServiceMetrics {
        let service = || name.to_owned();
        let own = Service { service: service() };
        ServiceMetrics {
            requests: DESTINATIONS.map(|destination| {
                CLASSES.map(|class| {
                    self.requests.get_or_create_owned(&Requests { service: service(), destination, class })
                })
            }),
            seconds: DESTINATIONS.map(|destination| {
                self.seconds.get_or_create_owned(&Answered { service: service(), destination })
            }),
            request_bytes: self.request_bytes.get_or_create_owned(&own),
            response_bytes: self.response_bytes.get_or_create_owned(&own),
            callers: self.callers.get_or_create_owned(&own),
            upstream_connects: self.upstream_connects.get_or_create_owned(&own),
            upstream_retries: self.upstream_retries.get_or_create_owned(&own),
            held: self.held.get_or_create_owned(&own),
            hold: self.hold.get_or_create_owned(&own),
            left_out: LEFT_OUT
                .map(|why| self.left_out.get_or_create_owned(&Withheld { service: service(), why })),
            service: service(),
            failures: self.failures.clone(),
            rejections: self.rejections.clone(),
        }
    }
}

/// The counters are 64 bits wide on every machine that the relay runs on.
const _: fn() -> Counter<u64, AtomicU64> = Counter::default;
