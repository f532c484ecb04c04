//! `cargo loadtest stalled`: large bodies on one tunnel that nobody takes, down and up. What is claimed is that a small request
//! beside a score of them is answered as ever, and that however many there are they cost both ends a bounded amount of memory.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::binaries::Binaries;
use crate::bulk;
use crate::caller;
use crate::figures::Table;
use crate::load::Load;
use crate::process::Process;
use crate::stack::{Stack, Where};

/// What each end may keep of them, in KiB: the 96 MiB that one tunnel may pin (`STALLED_WINDOW` of the QUIC tunnel; yamux'
/// windows come to less), what one side may have sent and not acknowledged (8 MiB), a block of 64 KiB for each, and as much
/// again as an allocator takes to keep all that in pieces of a packet.
const MOST: u64 = 256 * 1024;

/// Beside so many small requests are sent. QUIC's window has room for a few more, and then everything in it waits until one
/// is taken or given up.
const CROWD: u16 = 20;

/// So much of a body lies in the kernel's buffers on the way and not in ours.
const RECEIVE_BUFFER: u32 = 64 * 1024;

/// Nothing more comes or goes for so long: it is where it waits.
const STILL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
const BESIDE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// How many bodies at once, of 10 MB each
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub bodies: u16,
}

const BODY: u64 = 10_000_000;

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub transport: &'static str,
    pub direction: &'static str,
    pub bodies: u16,
    /// How far the peaks of what the programs kept in memory went beyond what they kept before, in KiB.
    pub relay_growth: u64,
    pub client_growth: u64,
    /// Of small requests on the same tunnel meanwhile, in ms.
    pub beside_p50: f64,
    pub beside_p99: f64,
}

impl Row {
    pub fn holds(&self) -> bool {
        self.relay_growth <= MOST && self.client_growth <= MOST
    }
}

pub async fn run(binaries: &Binaries, effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for transport in ["quic", "tls"] {
        for direction in ["down", "up"] {
            rows.push(measure(binaries, transport, direction, effort.bodies).await?);
        }
    }
    Ok(rows)
}

async fn measure(
    binaries: &Binaries,
    transport: &'static str,
    direction: &'static str,
    bodies: u16,
) -> anyhow::Result<Row> {
    let listener = TcpSocket::new_v4()?;
    listener.set_recv_buffer_size(RECEIVE_BUFFER)?;
    listener.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = listener.listen(1024)?;
    let app = listener.local_addr()?.to_string();
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener));

    let stack = Stack::before(binaries, "http://127.0.0.1:1", Where::Anywhere).await?;
    let alice = stack.developer("alice").await?;
    let arguments = ["--transport", transport, "orders", &app, "x-user=alice"];
    let client = stack.intercept_quietly(&alice, &arguments).await?;
    let small = Load {
        address: stack.door,
        request: caller::request("/200", &["x-user: alice"]),
        connections: 8,
        time: BESIDE,
    };
    // What any load needs is there already.
    Load { time: STILL, ..small.clone() }.run().await.context("warming up")?;
    let before = [stack.relay.memory()?, client.memory()?];
    for process in [&stack.relay, &client] {
        process.forget_peak()?;
    }
    let mut stalled = JoinSet::new();
    let mut stall = |count| {
        for _ in 0..count {
            match direction {
                "down" => stalled.spawn(download(stack.door)),
                _ => stalled.spawn(upload(stack.door)),
            };
        }
    };
    stall(bodies.min(CROWD));
    still([&stack.relay, &client]).await?;
    let beside = small.run().await.context("beside what is stalled")?;
    stall(bodies.saturating_sub(CROWD));
    still([&stack.relay, &client]).await?;
    if let Some(ended) = stalled.try_join_next() {
        ended??;
        bail!("a body that nobody took ended");
    }
    let growth = |process: &Process, before: u64| anyhow::Ok(process.peak()?.saturating_sub(before));
    Ok(Row {
        transport,
        direction,
        bodies,
        relay_growth: growth(&stack.relay, before[0])?,
        client_growth: growth(&client, before[1])?,
        beside_p50: beside.latency(0.5).as_secs_f64() * 1e3,
        beside_p99: beside.latency(0.99).as_secs_f64() * 1e3,
    })
}

/// Until neither keeps more than a while ago.
async fn still(processes: [&Process; 2]) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut before = 0;
    while begun.elapsed() < PATIENCE {
        let now = processes.iter().map(|process| process.peak()).sum::<anyhow::Result<u64>>()?;
        if now == before {
            return Ok(());
        }
        before = now;
        sleep(STILL).await;
    }
    bail!("it grows for longer than {PATIENCE:?}")
}

/// Reads nothing of its answer.
async fn download(door: SocketAddr) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let mut stream = socket.connect(door).await?;
    stream.write_all(&caller::request(&format!("/{BODY}"), &["x-user: alice"])).await?;
    std::future::pending().await
}

/// Sends what nobody takes.
async fn upload(door: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(door).await?;
    let head = format!(
        "PUT /stall HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nContent-Length: {BODY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&vec![0; usize::try_from(BODY)?]).await?;
    std::future::pending().await
}

/// Takes nothing of what is PUT, and answers a GET with as much as its path says.
async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut method = [0; 3];
            // What goes wrong on one is seen at its other end.
            if matches!(stream.peek(&mut method).await, Ok(3)) && &method == b"PUT" {
                std::future::pending::<()>().await;
            }
            let _ = bulk::converse(stream).await;
        });
    }
}

pub fn table(rows: &[Row]) -> String {
    let heading =
        ["tunnel", "bodies", "count", "relay grew by MiB", "client grew by MiB", "p50 ms beside", "p99 ms"];
    let mut table = Table::new(2, &heading);
    for row in rows {
        table.row(vec![
            row.transport.to_owned(),
            row.direction.to_owned(),
            row.bodies.to_string(),
            (row.relay_growth >> 10).to_string(),
            (row.client_growth >> 10).to_string(),
            format!("{:.1}", row.beside_p50),
            format!("{:.1}", row.beside_p99),
        ]);
    }
    table.render()
}
