//! One large body through a tunnel, down and up: how fast, and what it costs. Both ends are here, make nothing and keep
//! nothing; whether what came is what was sent is the affair of [`crate::bulk`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::tunnels::{FIELD, Running};
use super::{DIRECT, Effort, Sheet, progress};

const BLOCK: usize = 256 * 1024;
const LARGEST_HEAD: usize = 8 * 1024;
/// Connections, windows and pools are there afterwards.
const WARM_UP: u64 = 8 << 20;
/// Between two pieces.
const PATIENCE: Duration = Duration::from_secs(60);

pub const DOWN: &str = "Gbit/s down";
pub const UP: &str = "Gbit/s up";

#[derive(Clone, Copy, Debug)]
enum Direction {
    Down,
    Up,
}

/// What is behind the tunnel.
#[derive(Debug)]
pub struct App {
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

pub async fn measure(app: &App, tunnels: &[Running], effort: &Effort) -> anyhow::Result<Sheet> {
    progress("a large body");
    let columns = ["CPU s/GB down", DOWN, "CPU s/GB up", UP];
    let mut sheet = Sheet::new(format!("One body of {} MiB", effort.size), &columns);
    let bytes = effort.size << 20;
    for _ in 0..effort.rounds {
        let [down, up] = both(app.address, &[], bytes).await.context(DIRECT)?;
        sheet.add(DIRECT, [f64::NAN, down.0, f64::NAN, up.0]);
        for tunnel in tunnels {
            let processes = [tunnel.server(), &tunnel.client];
            let both = both(tunnel.address, &processes, bytes).await;
            sheet.take(&tunnel.name, both.map(|[down, up]| [down.1, down.0, up.1, up.0]))?;
        }
    }
    Ok(sheet)
}

/// Gbit/s, and seconds of a processor for 10^9 bytes, each way.
async fn both(
    address: SocketAddr,
    processes: &[&crate::process::Process],
    bytes: u64,
) -> anyhow::Result<[(f64, f64); 2]> {
    let mut found = [(0.0, 0.0); 2];
    for (found, direction) in found.iter_mut().zip([Direction::Down, Direction::Up]) {
        transfer(address, direction, WARM_UP.min(bytes)).await?;
        let cpu = || processes.iter().map(|process| process.cpu()).sum::<anyhow::Result<Duration>>();
        let (before, begun) = (cpu()?, Instant::now());
        transfer(address, direction, bytes).await?;
        let (used, took) = (cpu()?.saturating_sub(before), begun.elapsed());
        let billions = bytes as f64 / 1e9;
        *found = (billions * 8.0 / took.as_secs_f64(), used.as_secs_f64() / billions);
    }
    Ok(found)
}

async fn transfer(address: SocketAddr, direction: Direction, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (method, length, up, down) = match direction {
        Direction::Down => ("GET", String::new(), 0, bytes),
        Direction::Up => ("PUT", format!("Content-Length: {bytes}\r\n"), bytes, 0),
    };
    let head = format!("{method} /{down} HTTP/1.1\r\nHost: orders.example\r\n{FIELD}\r\n{length}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut block = vec![0; BLOCK];
    send(&mut stream, &block, up).await?;
    let (head, rest) = head_of(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("an answer that is not 200: {head}");
    }
    receive(&mut stream, &mut block, down.saturating_sub(rest.len() as u64)).await
}

impl App {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // What goes wrong on one is seen at its other end.
                conversations.spawn(async move { _ = converse(stream).await });
                while conversations.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

/// Answers with as much as a path says, after having taken as much as a head says; `/small` is little.
async fn converse(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut block = vec![0; BLOCK];
    loop {
        let (head, rest) = head_of(&mut stream).await?;
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let up: u64 = lengths.next().map_or(Ok(0), |(_, length)| length.trim().parse())?;
        receive(&mut stream, &mut block, up.saturating_sub(rest.len() as u64)).await?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let down = path.trim_start_matches('/').parse().unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {down}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        send(&mut stream, &block, down).await?;
    }
}

/// A head, and what has come behind it.
async fn head_of(stream: &mut TcpStream) -> anyhow::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(BLOCK);
    loop {
        if timeout(PATIENCE, stream.read_buf(&mut bytes)).await?? == 0 {
            bail!("the connection ended before a head");
        }
        if let Some(end) = bytes.windows(4).take(LARGEST_HEAD).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, rest));
        }
        if bytes.len() > LARGEST_HEAD {
            bail!("a head larger than any of ours");
        }
    }
}

async fn send(stream: &mut TcpStream, block: &[u8], mut bytes: u64) -> anyhow::Result<()> {
    while bytes > 0 {
        let piece = usize::try_from(bytes).map_or(block.len(), |bytes| bytes.min(block.len()));
        let piece = block.get(..piece).unwrap_or_default();
        timeout(PATIENCE, stream.write_all(piece)).await.context("sending: nobody takes it")??;
        bytes -= piece.len() as u64;
    }
    Ok(())
}

async fn receive(stream: &mut TcpStream, block: &mut [u8], mut bytes: u64) -> anyhow::Result<()> {
    while bytes > 0 {
        match timeout(PATIENCE, stream.read(block)).await.context("receiving: nothing comes")?? {
            0 => bail!("the end with {bytes} bytes still to come"),
            read => bytes = bytes.saturating_sub(read as u64),
        }
    }
    Ok(())
}
