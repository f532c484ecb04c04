//! What the figures were measured on, and how busy that was before.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::pinned;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// The measured processes had a processor of their own.
    pub pinned: bool,
    /// How many wanted a processor in the minute before: anything of others' that runs meanwhile is noise.
    pub load_before: f64,
}

impl Machine {
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let found =
                text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
            found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let first = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
        let memory: f64 = first(field(&read("/proc/meminfo"), "MemTotal")).parse().unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: pinned::processors(),
            memory_gib: memory / 1024.0 / 1024.0,
            kernel: first(read("/proc/sys/kernel/osrelease")),
            pinned: pinned::possible(),
            load_before: first(read("/proc/loadavg")).parse().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory_gib, kernel, load_before, .. } = self;
        write!(
            to,
            "{processors} x {processor}, {memory_gib:.0} GiB, Linux {kernel}, load average before: {load_before:.2}"
        )
    }
}
