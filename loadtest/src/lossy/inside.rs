//! One measurement, within the two namespaces that a link joins: the relay and its callers at the far end, the client and its
//! app at the near one. This process is at the far end; the link is somebody else's.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Found;
use crate::binaries::Binaries;
use crate::bulk;
use crate::caller;
use crate::link::namespaces::FAR;
use crate::load::{Load, Outcome};
use crate::process::Process;
use crate::stack::{Stack, Where};

/// Starting, warming up and stopping, for whoever waits for the end.
pub(super) const AROUND: Duration = Duration::from_secs(60);

const CALLERS: usize = 32;
/// Connections are opened, windows found, and as many tunnels dialled as the client thinks right, before anything counts.
const WARM_UP: Duration = Duration::from_secs(13);
/// The download runs for so long before it counts, and what it takes to give it a lane of its own has happened.
const BULK_AHEAD: Duration = Duration::from_secs(4);

const SMALL: &str = "/200";
/// More than any link carries meanwhile.
const BULK: &str = "/1000000000000";

#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    Measure(Measure),
    /// What stands behind the client
    App,
}

#[derive(Clone, Debug, Args)]
pub struct Measure {
    #[arg(long)]
    near: String,
    #[arg(long)]
    transport: String,
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    relay: PathBuf,
    #[arg(long)]
    client: PathBuf,
}

pub async fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::App => app().await,
        Action::Measure(measure) => {
            let found = measure.run().await?;
            Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&found)?)?)
        }
    }
}

/// What most machines have. Where the kernel does not let it be chosen it stays as it is, and the figures say what it was.
fn ordinary_tcp() -> anyhow::Result<String> {
    const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
    let _ = fs::write(CONTROL, "cubic");
    Ok(fs::read_to_string(CONTROL).context("asking how TCP's congestion is controlled")?.trim().to_owned())
}

async fn app() -> anyhow::Result<()> {
    ordinary_tcp()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    bulk::serve(listener).await;
    Ok(())
}

impl Measure {
    async fn run(self) -> anyhow::Result<Found> {
        let tcp = ordinary_tcp()?;
        let mut serving = Command::new(std::env::current_exe()?);
        serving.args(["lossy-inside", "app"]);
        let serving = Process::start("the app", self.near(&serving))?;
        let line = serving.line("listening on ").await?;
        let app = line.rsplit(' ').next().unwrap_or_default();

        let binaries = Binaries { relay: self.relay.clone(), client: self.client.clone() };
        // Nobody gets to the upstream.
        let services =
            "services:\n  - {name: orders, listen: \"127.0.0.1:0\", upstream: \"http://127.0.0.1:1\"}\n";
        let stack = Stack::reached_at(FAR, &binaries, services, Where::Anywhere).await?;
        let alice = stack.developer("alice").await?;
        let arguments = ["intercept", "--quiet", "--output", "json", "--transport", &self.transport];
        let arguments = [&arguments[..], &["orders", app, "x-user=alice"]].concat();
        let client = Process::start("culvert intercept", self.near(&stack.culvert(&alice, &arguments)))?;
        client.line("}").await?;

        let small = Load {
            address: stack.door,
            request: caller::request(SMALL, &["x-user: alice"]),
            connections: CALLERS,
            time: Duration::from_secs(self.seconds),
        };
        Load { time: WARM_UP, ..small.clone() }.run().await.context("warming up")?;
        let alone = small.run().await.context("alone")?;

        let came = Arc::new(AtomicU64::new(0));
        let mut downloading = JoinSet::new();
        downloading.spawn(download(stack.door, Arc::clone(&came)));
        sleep(BULK_AHEAD).await;
        let (before, begun) = (came.load(Ordering::Relaxed), Instant::now());
        let beside = small.run().await.context("beside the download")?;
        let bytes = came.load(Ordering::Relaxed) - before;
        if let Some(ended) = downloading.try_join_next() {
            ended.context("the download's task")?.context("downloading")?;
        }
        let bulk_mbit = bytes as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64();
        let milliseconds = |outcome: &Outcome, part| outcome.latency(part).as_secs_f64() * 1e3;
        Ok(Found {
            p50_alone: milliseconds(&alone, 0.5),
            p99_alone: milliseconds(&alone, 0.99),
            p50_beside: milliseconds(&beside, 0.5),
            p99_beside: milliseconds(&beside, 0.99),
            bulk_mbit,
            tcp,
        })
    }

    /// The same command at the near end.
    fn near(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut near = Command::new("ip");
        near.args(["netns", "exec", &self.near]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => near.env(name, value),
                None => near.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            near.current_dir(directory);
        }
        near
    }
}

async fn download(door: std::net::SocketAddr, came: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(door).await?;
    stream.write_all(&caller::request(BULK, &["x-user: alice"])).await?;
    let mut piece = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut piece).await? {
            0 => bail!("it ended"),
            read => came.fetch_add(read as u64, Ordering::Relaxed),
        };
    }
}
