//! What the relay was told to do, resolved: every name, address, URL and time in here is valid and none contradicts
//! another. How it is written is in `file` (as typed), how one becomes the other in `resolve`. Holds no environment
//! variable and opens nothing but the file itself.

mod file;
mod limits;
mod manners;
mod resolve;
mod tls;
mod upstream;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_protocol::intercept::ServiceName;

pub(crate) use file::nearest;
pub use limits::Limits;
pub use manners::{Forwarded, Host, Manners, RouteField};
pub use resolve::parse_duration;
pub use tls::{DoorTls, UpstreamTls, UpstreamTrust};
pub use upstream::{Upstream, UpstreamError};

/// No configuration that a person writes is longer; a larger file is some other file.
const LONGEST: u64 = 1024 * 1024;

/// `relay.yaml`, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the authority, the relay's keys and the store live. A relative path is relative to the file it stood in,
    /// so that `token create` finds the same one from any directory.
    pub data: PathBuf,
    pub tunnel: Tunnel,
    pub admin: Admin,
    /// At least one; no name and no listen address twice.
    pub services: Vec<Service>,
    pub drain: Drain,
}

/// Where developers dial in.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The same port for UDP (QUIC) and TCP (TLS, and WebSockets in the clear).
    pub listen: SocketAddr,
    /// One more for TCP, for ingresses that end TLS: all of their developers come from one address.
    pub websocket: Option<SocketAddr>,
    /// The host names and addresses that clients may know the relay by: what its certificate says.
    pub names: Vec<String>,
    /// Relays with this authority that serve the same services, this one included: a client has a tunnel to each.
    pub replicas: u32,
    /// Claims in force at once, of all developers together.
    pub claims: usize,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: SocketAddr,
}

/// A front door and what stands behind it.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub listen: SocketAddr,
    pub upstream: Upstream,
    /// The door speaks TLS; without it, HTTP in the clear.
    pub tls: Option<DoorTls>,
    pub limits: Limits,
    pub manners: Manners,
    /// Whether a developer may claim every request of this service. Off unless said otherwise: such a claim takes
    /// other people's requests.
    pub all_traffic: bool,
}

#[derive(Clone, Debug)]
pub struct Drain {
    /// How long exchanges in flight may go on after the relay was told to stop.
    pub grace: Duration,
}

/// Why there is no configuration. Displayed as `relay.yaml:3:5: …` where there is a position to name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("reading {}: {cause}{}", path.display(), advice(cause))]
    Read { path: PathBuf, cause: io::Error },
    #[error("reading {}: it is a directory: name the file in it, as in {}", path.display(), path.join("relay.yaml").display())]
    Directory { path: PathBuf },
    #[error("reading {}: larger than 1 MiB, which no relay.yaml is", path.display())]
    TooLarge { path: PathBuf },
    #[error("reading {}: not UTF-8 text, which YAML is", path.display())]
    NotText { path: PathBuf },
    #[error("{}: {problem}", path.display())]
    Whole { path: PathBuf, problem: String },
    /// A file that the configuration names, not the configuration itself.
    #[error("service `{service}`: {key}")]
    Tls { service: ServiceName, key: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{}:{line}:{column}: {problem}", path.display())]
    At { path: PathBuf, line: u64, column: u64, problem: String },
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |cause| ConfigError::Read { path: path.to_owned(), cause };
        let about = fs::metadata(path).map_err(read)?;
        if about.is_dir() {
            return Err(ConfigError::Directory { path: path.to_owned() });
        }
        if about.len() > LONGEST {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let bytes = fs::read(path).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
        Self::parse(&text, path)
    }

    /// Of text that stands, or might stand, at `path`: errors name it, and relative paths start beside it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let typed = file::parse(text).map_err(|problem| problem.in_file(path))?;
        resolve::config(typed, path.parent().unwrap_or_else(|| Path::new("")))
            .map_err(|problem| problem.in_file(path))
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }
}

impl Drain {
    pub const GRACE: Duration = Duration::from_secs(30);
}

impl Default for Drain {
    fn default() -> Self {
        Self { grace: Self::GRACE }
    }
}

impl Tunnel {
    pub const LISTEN: &str = "0.0.0.0:4433";
    /// A few kilobytes each.
    pub const CLAIMS: usize = 10_000;

    /// Where clients may dial, as a join token carries it: the first name, and the port where it is known. Empty where
    /// it is not.
    pub fn dialled_at(&self) -> String {
        let port = self.listen.port();
        match self.names.first() {
            Some(name) if port != 0 && name.contains(':') => format!("[{name}]:{port}"),
            Some(name) if port != 0 => format!("{name}:{port}"),
            Some(_) | None => String::new(),
        }
    }
}

impl Admin {
    /// Not reachable from outside the machine (or the pod) unless asked for.
    pub const LISTEN: &str = "127.0.0.1:9090";
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => ": say where it is with -c FILE",
        io::ErrorKind::PermissionDenied => ": the relay must be able to read it",
        _ => "",
    }
}

/// What is wrong, and where in the text.
#[derive(Debug)]
struct Problem {
    at: Option<(u64, u64)>,
    text: String,
}

impl Problem {
    fn in_file(self, path: &Path) -> ConfigError {
        let path = path.to_owned();
        match self.at {
            Some((line, column)) => ConfigError::At { path, line, column, problem: self.text },
            None => ConfigError::Whole { path, problem: self.text },
        }
    }
}

#[cfg(test)]
mod tests;
