//! Proof: what shows that culvert does what it says, to tests, to a newcomer and in figures. The only place that knows
//! both halves. Nothing here is shipped, and nothing shipped depends on it.
//!
//! In reading order: the two ends of a test, what may be between them, a whole world in one process, programs under test,
//! figures.

pub mod caller;
pub mod message;
pub mod origin;

pub mod flaky;
pub mod link;
pub mod path;
pub mod proxies;

pub mod demo;
pub mod world;

pub mod binaries;
pub mod process;
pub mod stack;

pub mod crowd;
pub mod idle;
pub mod lossy;
pub mod scale;
pub mod soak;
pub mod stalled;
pub mod storm;

pub mod bulk;
pub mod compare;
pub mod figures;
pub mod guard;
pub mod load;
pub mod nginx;
pub mod open;
pub mod peers;
pub mod pinned;
pub mod plot;
pub mod upstream;
