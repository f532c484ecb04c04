//! `cargo loadtest bulk`: large bodies through the programs as they are shipped, up and down, on each way. What came is what
//! was sent, by checksum, and neither the relay nor the client kept it. Holds both ends, which keep nothing either.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ring::digest::{Context, SHA256};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::binaries::Binaries;
use crate::figures::Table;
use crate::process::Process;
use crate::stack::{Stack, Where};

/// How much a program's peak may grow by one large body, in KiB. What a tunnel may hold of one is what has not been
/// acknowledged (8 MiB, QUIC's send window) and what the other side's windows let in, and an allocator keeps some of what it
/// was given back; a body of 64 MiB that was kept would be four times as much, one of 1 GiB sixty-four times.
pub const MOST_GROWTH: u64 = 16 * 1024;

/// Goes before what is measured: connections, windows and pools are there afterwards.
const WARM_UP: u64 = 4 << 20;
/// Between two pieces of a body, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is written at once, and no more is ever held.
const BLOCK: usize = 64 * 1024;
/// A head of ours is a few lines.
const LARGEST_HEAD: usize = 8 * 1024;

/// One body, one direction, one way.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub way: &'static str,
    pub direction: &'static str,
    pub bytes: u64,
    pub seconds: f64,
    /// What came has the checksum of what was sent.
    pub equal: bool,
    /// How far the peak of what a program kept in memory went beyond what it kept before, in KiB.
    pub relay_growth: u64,
    pub client_growth: Option<u64>,
}

impl Row {
    pub fn holds(&self) -> bool {
        self.equal
            && self.relay_growth <= MOST_GROWTH
            && self.client_growth.unwrap_or_default() <= MOST_GROWTH
    }
}

/// Sends so many bytes each way, one after the other.
pub async fn run(binaries: &Binaries, bytes: u64) -> anyhow::Result<Vec<Row>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let far = listener.local_addr()?;
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener));

    let stack = Stack::before(binaries, &format!("http://{far}"), Where::Anywhere).await?;
    let alice = stack.developer("alice").await?;
    let app = far.to_string();
    let mut rows = both(&stack, "upstream", None, bytes).await?;
    for transport in ["quic", "tls"] {
        let arguments = ["--transport", transport, "orders", &app, "x-user=alice"];
        let client = stack.intercept_quietly(&alice, &arguments).await?;
        rows.extend(both(&stack, transport, Some(&client), bytes).await?);
        client.signal("TERM").await?;
        client.ended().await?;
    }
    Ok(rows)
}

/// A table of it.
pub fn table(rows: &[Row]) -> String {
    let heading =
        ["way", "direction", "MiB", "s", "MiB/s", "equal", "relay grew by KiB", "client grew by KiB"];
    let mut table = Table::new(2, &heading);
    for row in rows {
        let mib = row.bytes >> 20;
        let rate = mib as f64 / row.seconds;
        table.row(vec![
            row.way.to_owned(),
            row.direction.to_owned(),
            mib.to_string(),
            format!("{:.2}", row.seconds),
            format!("{rate:.0}"),
            if row.equal { "yes" } else { "NO" }.to_owned(),
            row.relay_growth.to_string(),
            row.client_growth.map_or_else(|| "-".to_owned(), |growth| growth.to_string()),
        ]);
    }
    table.render()
}

async fn both(
    stack: &Stack,
    way: &'static str,
    client: Option<&Process>,
    bytes: u64,
) -> anyhow::Result<Vec<Row>> {
    let expected = sum(bytes);
    let mut rows = Vec::new();
    for direction in ["up", "down"] {
        let one = async |bytes| match direction {
            "up" => upload(stack.door, bytes).await,
            _ => download(stack.door, bytes).await,
        };
        one(WARM_UP).await.with_context(|| format!("warming up: {way}, {direction}"))?;
        let relay = Peak::of(&stack.relay)?;
        let client = client.map(Peak::of).transpose()?;
        let begun = Instant::now();
        let came = one(bytes).await.with_context(|| format!("{way}, {direction}"))?;
        rows.push(Row {
            way,
            direction,
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
            equal: came == expected,
            relay_growth: relay.growth()?,
            client_growth: client.map(|client| client.growth()).transpose()?,
        });
    }
    Ok(rows)
}

/// Counted from here on.
struct Peak<'a> {
    process: &'a Process,
    before: u64,
}

impl<'a> Peak<'a> {
    fn of(process: &'a Process) -> anyhow::Result<Self> {
        process.forget_peak()?;
        Ok(Self { process, before: process.peak()? })
    }

    fn growth(&self) -> anyhow::Result<u64> {
        Ok(self.process.peak()?.saturating_sub(self.before))
    }
}

/// Sends a body, and returns the checksum that the other end answers with.
async fn upload(door: SocketAddr, bytes: u64) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(door).await?;
    let head = format!(
        "PUT /{bytes} HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    send(&mut stream, bytes).await?;
    let mut stream = BufReader::new(stream);
    let length = content_length(&head_of(&mut stream).await?)?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.take(length).read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// Asks for a body, and returns its checksum.
async fn download(door: SocketAddr, bytes: u64) -> anyhow::Result<String> {
    let mut stream = BufReader::with_capacity(BLOCK, TcpStream::connect(door).await?);
    let head = format!(
        "GET /{bytes} HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let length = content_length(&head_of(&mut stream).await?)?;
    receive(&mut stream, length).await
}

/// What stands behind: takes what is PUT and answers with its checksum, and answers a GET with as much as its path says.
pub(crate) async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // What goes wrong on one is seen at its other end.
        connections.spawn(async move { _ = converse(stream).await });
        while connections.try_join_next().is_some() {}
    }
}

pub(crate) async fn converse(stream: TcpStream) -> anyhow::Result<()> {
    // A head and a short body are two writes, and the second is not to wait until the first was acknowledged.
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(BLOCK, stream);
    loop {
        let head = head_of(&mut stream).await?;
        if head.starts_with("PUT ") {
            let sum = receive(&mut stream, content_length(&head)?).await?;
            let length = sum.len();
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{sum}").as_bytes())
                .await?;
        } else {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let bytes = path.trim_start_matches('/').parse().context("a path that is no length")?;
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())
                .await?;
            send(stream.get_mut(), bytes).await?;
        }
    }
}

async fn head_of(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LARGEST_HEAD {
            bail!("a head larger than any of ours");
        }
        head.push(timeout(PATIENCE, stream.read_u8()).await??);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn content_length(head: &str) -> anyhow::Result<u64> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.with_context(|| format!("no content-length in {head:?}"))?;
    Ok(length.trim().parse()?)
}

/// The same bytes each time; each block is another one, so that none can stand for another.
struct Blocks {
    block: Vec<u8>,
    number: u64,
    left: u64,
}

impl Blocks {
    fn new(bytes: u64) -> Self {
        let block = (0..BLOCK).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        Self { block, number: 0, left: bytes }
    }

    fn next(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.left).map_or(BLOCK, |left| left.min(BLOCK));
        if length == 0 {
            return None;
        }
        self.left -= length as u64;
        self.number += 1;
        for (place, byte) in self.block.iter_mut().zip(self.number.to_le_bytes()) {
            *place = byte;
        }
        self.block.get(..length)
    }
}

fn sum(bytes: u64) -> String {
    let (mut sum, mut blocks) = (Context::new(&SHA256), Blocks::new(bytes));
    while let Some(block) = blocks.next() {
        sum.update(block);
    }
    hexadecimal(sum)
}

async fn send(stream: &mut TcpStream, bytes: u64) -> anyhow::Result<()> {
    let mut blocks = Blocks::new(bytes);
    while let Some(block) = blocks.next() {
        timeout(PATIENCE, stream.write_all(block)).await.context("sending: nobody takes it")??;
    }
    Ok(())
}

async fn receive(stream: &mut BufReader<TcpStream>, bytes: u64) -> anyhow::Result<String> {
    let mut sum = Context::new(&SHA256);
    let mut piece = vec![0; BLOCK];
    let mut body = stream.take(bytes);
    loop {
        let read = timeout(PATIENCE, body.read(&mut piece)).await.context("receiving: nothing comes")??;
        if read == 0 {
            break;
        }
        sum.update(piece.get(..read).unwrap_or_default());
    }
    if body.limit() != 0 {
        bail!("the end with {} bytes still to come", body.limit());
    }
    Ok(hexadecimal(sum))
}

fn hexadecimal(sum: Context) -> String {
    sum.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
