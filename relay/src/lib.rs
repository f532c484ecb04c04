//! The in-cluster half of culvert, in reading order. Holds no front door logic and no tunnel logic itself.

pub mod config;
pub mod metrics;
pub mod store;
