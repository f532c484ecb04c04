//! Which request ran where, and how often: both backends write into one book.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::Message;
use crate::origin::{Answer, Origin};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    App,
    Upstream,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Upstream => "upstream",
        }
    }
}

/// Ids from here on are none of the load's.
pub(super) const PROBES: u64 = 1 << 40;

/// By the id that the caller has put into the target.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<u64, Ran>>);

#[derive(Clone, Copy, Debug, Default)]
struct Ran {
    times: u32,
    safe: bool,
}

impl Ledger {
    /// A backend that runs what it gets at once, and says who it is.
    pub(super) async fn origin(self: &Arc<Self>, side: Side) -> anyhow::Result<Origin> {
        let ledger = Arc::clone(self);
        Origin::with(move |request| match ledger.run(request) {
            Some(id) => Answer::text(&format!("{} {id}", side.name())),
            None => Answer::with_status("404 Not Found", ""),
        })
        .await
    }

    fn run(&self, request: &Message) -> Option<u64> {
        let line = request.line();
        let mut words = line.split(' ');
        let method = words.next()?;
        let id = words.next()?.strip_prefix('/')?.parse().ok()?;
        let mut ran = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = ran.entry(id).or_default();
        *ran = Ran { times: ran.times + 1, safe: method == "GET" };
        Some(id)
    }

    /// How many safe requests, and how many others, ran more than once.
    pub(super) fn twice(&self) -> (usize, usize) {
        let ran = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = |safe| ran.values().filter(|ran| ran.times > 1 && ran.safe == safe).count();
        (twice(true), twice(false))
    }
}
