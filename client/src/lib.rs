//! The laptop half of culvert: dials out to a relay, claims requests there, and serves them from the developer's own
//! process. Everything works in any number within one process: nothing here is global, nothing reads the environment,
//! and the files are where the caller says.
//!
//! In reading order: what is typed, what is kept, how the relay is reached, what is said on the tunnel.

mod address;
mod app;
pub mod commands;
pub mod dial;
mod exit;
pub mod list;
pub mod login;
mod network;
pub mod profile;
pub mod screen;
pub mod serve;
pub mod session;
mod signals;
pub mod status;

pub use address::{AddressError, DEFAULT_PORT, RelayAddress};
pub use app::{App, AppError};
pub use exit::Exit;
