//! The programs that culvert is measured against: which there are, where they are, which version each is. How they are
//! configured stands in [`proxy`] and [`tunnel`], how they are installed in [`install`].

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::binaries;
use crate::process::Process;

pub mod install;
pub mod proxy;
pub mod tunnel;

pub use proxy::Proxy;

/// For one of them to listen.
const STARTS: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Nginx,
    Haproxy,
    Envoy,
    Caddy,
    RatholeTcp,
    RatholeTls,
    RatholeNoise,
    Bore,
    Frp,
}

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Proxy,
    Tunnel,
}

/// Which of them a measurement is to have, as a command line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    All,
    None,
    One(Peer),
}

/// Those that are there, with their versions, and those that are not.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub there: Vec<(Peer, String)>,
    pub missing: Vec<Peer>,
}

impl Peer {
    pub fn kind(self) -> Kind {
        match self {
            Self::Nginx | Self::Haproxy | Self::Envoy | Self::Caddy => Kind::Proxy,
            Self::RatholeTcp | Self::RatholeTls | Self::RatholeNoise | Self::Bore | Self::Frp => Kind::Tunnel,
        }
    }

    /// The file that is run, and what makes it print its version.
    fn runs(self) -> (&'static str, &'static str) {
        match self {
            Self::Nginx => ("nginx", "-v"),
            Self::Haproxy => ("haproxy", "-v"),
            Self::Envoy => ("envoy", "--version"),
            Self::Caddy => ("caddy", "version"),
            Self::RatholeTcp | Self::RatholeTls | Self::RatholeNoise => ("rathole", "--version"),
            Self::Bore => ("bore", "--version"),
            Self::Frp => ("frps", "--version"),
        }
    }

    /// What it says of itself, or None where it is not there or does not run.
    pub async fn version(self) -> Option<String> {
        let (name, argument) = self.runs();
        let mut asking = Command::new(program(self)?);
        let said = timeout(STARTS, asking.arg(argument).kill_on_drop(true).output()).await.ok()?.ok()?;
        let text = [said.stdout, said.stderr].concat();
        number(&String::from_utf8_lossy(&text)).map(|number| format!("{name} {number}"))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            name => Peer::from_str(name, true).map(Self::One).map_err(|_| {
                let names: Vec<_> = Peer::value_variants().iter().map(Peer::to_string).collect();
                format!("there are: all, none, {}", names.join(", "))
            }),
        }
    }
}

impl Found {
    /// Looks for those of this kind that were chosen, or for `usual` where nothing was.
    pub async fn of(kind: Kind, chosen: &[Choice], usual: &[Peer]) -> Self {
        let wanted = |peer: &Peer| match chosen {
            [] => usual.contains(peer),
            chosen => chosen.contains(&Choice::All) || chosen.contains(&Choice::One(*peer)),
        };
        let mut found = Self::default();
        for peer in Peer::value_variants().iter().filter(|peer| peer.kind() == kind && wanted(peer)) {
            match peer.version().await {
                Some(version) => found.there.push((*peer, version)),
                None => found.missing.push(*peer),
            }
        }
        found
    }

    /// Which of them are which version; rathole says its own once.
    pub fn versions(&self) -> Vec<String> {
        let mut versions: Vec<_> = self.there.iter().map(|(_, version)| version.clone()).collect();
        versions.dedup();
        versions
    }
}

/// The first word like `1.2`, whatever is before it.
fn number(text: &str) -> Option<&str> {
    let words = text.split(|between: char| between.is_whitespace() || between == '/');
    words.map(|word| word.trim_start_matches('v')).find(|word| {
        let major = word.split_once('.').map_or("", |(major, _)| major);
        !major.is_empty() && major.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Where [`install`] has put it, or else where the system has.
pub fn program(peer: Peer) -> Option<PathBuf> {
    match peer {
        Peer::Envoy => packaged_envoy().or_else(|| named("envoy")),
        peer => named(peer.runs().0),
    }
}

/// The program itself: what pip has put into its directory of programs is a script that starts it.
fn packaged_envoy() -> Option<PathBuf> {
    let libraries = fs::read_dir(directory().ok()?.join("python/lib")).ok()?;
    let mut paths =
        libraries.filter_map(|library| Some(library.ok()?.path().join("site-packages/envoy/_bin/envoy")));
    paths.find(|path| path.is_file())
}

pub(crate) fn named(name: &str) -> Option<PathBuf> {
    let own = directory().ok().into_iter().flat_map(|own| [own.join("bin"), own.join("python/bin")]);
    let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    own.chain(system).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Beside what cargo has made.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    let profile = binaries::directory()?;
    Ok(profile.parent().map_or_else(|| Path::new("peers").to_owned(), |target| target.join("peers")))
}

/// For programs that cannot say which port the system gave them.
pub(crate) async fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("finding a free port")?;
    Ok(listener.local_addr()?)
}

/// Starts it, and waits until it takes connections there.
pub(crate) async fn listening(name: &str, command: Command, address: SocketAddr) -> anyhow::Result<Process> {
    let mut process = Process::start(name, command)?;
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if !process.is_running() || begun.elapsed() > STARTS {
            bail!("starting {name}: {}{}", process.stdout(), process.stderr());
        }
        sleep(BETWEEN).await;
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_a_program_says() {
        assert_eq!(number("nginx version: nginx/1.22.1\n"), Some("1.22.1"));
        assert_eq!(
            number("Build Timestamp: 2026-11-22T10:49:15.47Z\nBuild Version:  0.5.0\n"),
            Some("0.5.0")
        );
        assert_eq!(number("v2.11.7 h1:abc="), Some("2.11.7"));
        assert_eq!(number("none"), None);
    }

    #[test]
    fn a_choice_is_a_name_or_all_or_none() {
        assert_eq!("all".parse(), Ok(Choice::All));
        assert_eq!("rathole-tls".parse(), Ok(Choice::One(Peer::RatholeTls)));
        assert!("apache".parse::<Choice>().unwrap_err().contains("rathole-noise"));
    }
}
