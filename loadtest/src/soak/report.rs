//! What came of a soak, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Effort;
use super::calls::{Outcome, quantile};
use super::ledger::Ledger;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seconds: u64,
    pub rate: u32,
    pub sent: u64,
    pub by_app: Answered,
    pub by_upstream: Answered,
    pub failed: u64,
    /// By what the caller saw.
    pub failures: BTreeMap<String, u64>,
    /// The first ones, one by one.
    pub first_failures: Vec<String>,
    pub posts_twice: usize,
    /// Which is allowed: a GET may be asked again.
    pub gets_twice: usize,
    /// How often the client's address changed.
    pub moves: u32,
    /// Every relay that was told to end did so in order.
    pub drained: bool,
}

/// By one side. What only the app may have had waits for it as long as it must; everything else goes to the upstream, in time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Answered {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
}

impl Answered {
    fn after(sorted: &[Duration]) -> Self {
        let milliseconds = |share| quantile(sorted, share).as_secs_f64() * 1e3;
        let (p50_ms, p99_ms, longest_ms) = (milliseconds(0.5), milliseconds(0.99), milliseconds(1.0));
        Self { count: sorted.len(), p50_ms, p99_ms, longest_ms }
    }

    fn text(&self) -> String {
        format!(
            "{:.0} ms (median), {:.0} ms (p99), {:.0} ms (longest)",
            self.p50_ms, self.p99_ms, self.longest_ms
        )
    }
}

impl Report {
    pub(super) fn new(effort: Effort, outcome: Outcome, ledger: &Ledger, moves: u32, drained: bool) -> Self {
        let (gets_twice, posts_twice) = ledger.twice();
        Self {
            seconds: effort.seconds,
            rate: effort.rate,
            sent: outcome.sent,
            by_app: Answered::after(&outcome.by_app),
            by_upstream: Answered::after(&outcome.by_upstream),
            failed: outcome.failed.values().sum(),
            posts_twice,
            gets_twice,
            moves,
            drained,
            failures: outcome.failed,
            first_failures: outcome.told,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{} requests in {} s: {} answered by the app, {} by the upstream, {} failed",
            self.sent, self.seconds, self.by_app.count, self.by_upstream.count, self.failed
        );
        let _ = writeln!(text, "ran twice: {} POSTs, {} GETs", self.posts_twice, self.gets_twice);
        let _ = writeln!(text, "by the app after {}", self.by_app.text());
        let _ = writeln!(text, "by the upstream after {}", self.by_upstream.text());
        let _ = writeln!(
            text,
            "the client's address changed {} times; what was told to end {}",
            self.moves,
            if self.drained { "ended in order" } else { "did not end in order" }
        );
        for (why, count) in &self.failures {
            let _ = writeln!(text, "  {count:6} x {why}");
        }
        for failure in &self.first_failures {
            let _ = writeln!(text, "  {failure}");
        }
        text
    }
}
