//! The in-cluster half of culvert: a front door for each service, and the tunnels of the developers who claim some of
//! its requests. Modules in reading order; [`Relay`] is the whole.

pub mod config;
mod relay;

mod front;
mod routes;
mod service;

mod tunnels;

pub mod policy;

pub mod store;

mod admin;
pub mod failure;
pub mod metrics;
pub mod operator;

pub use config::{Config, ConfigError};
pub use relay::{Addresses, Drained, Enrolment, Relay, StartError};
