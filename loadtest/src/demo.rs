//! `cargo demo`: a relay, a developer, a sample upstream and a sample app in this process, a few requests through them,
//! and what became of each. Prints; everything that happens is [`crate::world`]'s.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_client::dial::Rungs;
use culvert_client::screen::{Look, Screen};
use tokio::time::{sleep, timeout};

use crate::caller::{self, Caller};
use crate::figures::Table;
use crate::message::Message;
use crate::origin::Origin;
use crate::world::{World, leave};

/// How long the relay's counters may lag behind an answer.
const COUNTED: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Your own upstream instead of the sample, as http://HOST:PORT
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Your own app instead of the sample, as PORT, HOST:PORT, http://HOST:PORT or unix:/path
    #[arg(long, value_name = "URL")]
    app: Option<String>,
    /// What carries the tunnel
    #[arg(long, value_enum, default_value_t)]
    transport: Rungs,
    /// Leave after the table instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
}

/// What is sent: a target and field lines.
const REQUESTS: [(&str, &[&str]); 5] = [
    ("/orders/1", &[]),
    ("/orders/1", &["x-user: alice"]),
    ("/orders/2", &["x-user: bob"]),
    ("/orders/2", &["X-User: alice"]),
    ("/orders/3", &[]),
];

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // From here on Ctrl-C is a request to end in order.
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        shown = Box::pin(show(&arguments)) => shown,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}

async fn show(arguments: &Arguments) -> anyhow::Result<()> {
    let mut samples = Vec::new();
    let upstream = sample(&mut samples, arguments.upstream.as_ref(), "the upstream").await?;
    let app = sample(&mut samples, arguments.app.as_ref(), "alice's app").await?;
    let mut world = World::before(&upstream).await?;
    let alice = world.developer("alice").await?;
    let colour = io::stderr().is_terminal();
    let screen = Screen::new(Look { colour, ..Look::default() }, io::stderr())?;
    let session = alice.intercept_showing("x-user=alice", &app, arguments.transport, screen).await?;
    let over = session.now().map_or_else(String::new, |ready| format!(" over {}", ready.transport));

    let (door, admin) = (world.door()?, world.addresses().admin);
    print(&format!(
        "\nservice `orders` on {door}: its upstream is {upstream}\nalice takes the requests with x-user: alice{over}, to {app}\n\n"
    ))?;
    print(&call(door, admin).await?)?;
    print(&format!(
        "\nTry it:\n  curl http://{door}/orders/7\n  curl -H 'x-user: alice' http://{door}/orders/7\n  curl http://{admin}/metrics\n"
    ))?;
    if !arguments.once {
        print("\nEverything is up until Ctrl-C.\n")?;
        std::future::pending::<()>().await;
    }
    leave(session).await?;
    let _ = world.stop_relay().await?;
    Ok(())
}

/// Sends the requests, one after the other on one connection, and says what became of each.
async fn call(door: SocketAddr, admin: SocketAddr) -> anyhow::Result<String> {
    let mut table = Table::new(4, &["request", "header", "went to", "answer", "status", "took"]);
    let mut caller = Caller::connect(door).await?;
    for (target, fields) in REQUESTS {
        let before = Counted::read(admin).await?;
        let begun = Instant::now();
        let answer = caller.exchange(caller::request(target, fields)).await?;
        let took = begun.elapsed();
        let went = before.next(admin).await?;
        if answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            caller = Caller::connect(door).await?;
        }
        table.row(vec![
            format!("GET {target}"),
            fields.first().map_or("-", |field| field).to_owned(),
            went.to_owned(),
            excerpt(&answer),
            answer.status().to_string(),
            format!("{:.2} ms", took.as_secs_f64() * 1e3),
        ]);
    }
    Ok(table.render())
}

/// How many requests the relay has sent where, by its own metrics: true whoever answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted([u64; 3]);

const DESTINATIONS: [(&str, &str); 3] =
    [("upstream", "upstream"), ("tunnel", "alice's tunnel"), ("relay", "nowhere: the relay answered")];

impl Counted {
    async fn read(admin: SocketAddr) -> anyhow::Result<Self> {
        let metrics = caller::get(admin, "/metrics", &["Connection: close"]).await?.text();
        Ok(Self(DESTINATIONS.map(|(label, _)| {
            let label = format!("destination=\"{label}\"");
            let lines = metrics.lines().filter(|line| line.starts_with("culvert_requests_total"));
            let counts =
                lines.filter(|line| line.contains(&label)).filter_map(|line| line.rsplit(' ').next());
            counts.filter_map(|count| count.parse::<u64>().ok()).sum()
        })))
    }

    /// Where the next request went.
    async fn next(self, admin: SocketAddr) -> anyhow::Result<&'static str> {
        let counting = async {
            loop {
                let now = Self::read(admin).await?;
                let grown = self.0.iter().zip(now.0).position(|(before, now)| *before != now);
                if let Some((_, name)) = grown.and_then(|at| DESTINATIONS.get(at)) {
                    return anyhow::Ok(*name);
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(COUNTED, counting).await.context("the relay did not count a request")?
    }
}

/// The user's own server, or one that says who it is.
async fn sample(
    samples: &mut Vec<Origin>,
    own: Option<&String>,
    name: &'static str,
) -> anyhow::Result<String> {
    if let Some(own) = own {
        return Ok(own.clone());
    }
    let origin = Origin::named(name).await?;
    let url = origin.url();
    samples.push(origin);
    Ok(url)
}

/// The first line of an answer's body, if it is short and plain.
fn excerpt(answer: &Message) -> String {
    const LONGEST: usize = 40;
    let text = answer.text();
    let line = text.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().filter(|char| !char.is_control()).take(LONGEST).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}

/// A pipe that nobody reads any more is no reason to fail.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}
