//! A histogram of durations that is observed without a lock: the library's own takes one per observation, and this one
//! is touched by every request on every core.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Few, because each is a series per service and destination: within a cluster, through a tunnel, slow, hanging.
const BOUNDS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// Cheap to clone; clones count into the same buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Latency(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    within: [AtomicU64; BOUNDS.len()],
    beyond: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Latency {
    pub(super) fn observe(&self, took: Duration) {
        let bucket = BOUNDS.iter().zip(&self.0.within).find(|(bound, _)| took <= **bound);
        // Relaxed: each number stands for itself, and a scrape may see them a moment apart.
        bucket.map_or(&self.0.beyond, |(_, bucket)| bucket).fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut buckets: Vec<(f64, u64)> = BOUNDS
            .iter()
            .zip(&self.0.within)
            .map(|(bound, count)| (bound.as_secs_f64(), count.load(Ordering::Relaxed)))
            .collect();
        buckets.push((f64::INFINITY, self.0.beyond.load(Ordering::Relaxed)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
