//! A caller that says exactly the bytes it is given, on one connection, and reads answers whole. It repairs nothing, adds
//! nothing and follows nothing, and every wait of it has an end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::message::{self, Kind, Message};

/// Longer than anything that a test waits for may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = connecting.context("timed out").and_then(|connected| Ok(connected?));
        let stream = stream.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let sending = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await;
        Ok(sending.context("sending: timed out")??)
    }

    /// The same, parted ([`message::write`]).
    pub async fn send_parted(&mut self, bytes: &[u8], cuts: &[usize]) -> anyhow::Result<()> {
        let sending = timeout(PATIENCE, message::write(&mut self.stream, bytes, cuts)).await;
        Ok(sending.context("sending: timed out")??)
    }

    /// Says that nothing more follows.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The next answer; a 1xx is one of its own.
    pub async fn answer(&mut self) -> anyhow::Result<Message> {
        self.read(Kind::Response).await
    }

    /// The next answer, to a HEAD.
    pub async fn bodiless_answer(&mut self) -> anyhow::Result<Message> {
        self.read(Kind::BodilessResponse).await
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> anyhow::Result<Message> {
        self.send(request).await?;
        self.answer().await
    }

    /// Waits until this has come, and keeps all of it for whoever reads next.
    pub async fn hears(&mut self, part: &str) -> anyhow::Result<()> {
        let reading = async {
            while !String::from_utf8_lossy(&self.buffer).contains(part) {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    bail!("the connection ended before `{part}`");
                }
            }
            Ok(())
        };
        timeout(PATIENCE, reading).await.with_context(|| format!("waiting for `{part}`: timed out"))?
    }

    /// Everything until the other side ends; a reset is an end too.
    pub async fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        let reading = async {
            // Whoever closes with our bytes unread resets; what came before that counts.
            while matches!(self.stream.read_buf(&mut rest).await, Ok(read) if read != 0) {}
        };
        timeout(PATIENCE, reading).await.context("waiting for the connection's end: timed out")?;
        Ok(rest)
    }

    async fn read(&mut self, kind: Kind) -> anyhow::Result<Message> {
        let reading = timeout(PATIENCE, message::read(&mut self.stream, &mut self.buffer, kind)).await;
        match reading.context("waiting for an answer: timed out")?.context("reading an answer")? {
            Some(message) => Ok(message),
            None => bail!("the connection ended before an answer"),
        }
    }
}

/// A GET on a connection of its own, with these field lines (`x-user: alice`).
pub async fn get(address: SocketAddr, target: &str, fields: &[&str]) -> anyhow::Result<Message> {
    Caller::connect(address).await?.exchange(request(target, fields)).await
}

/// The bytes of a GET.
pub fn request(target: &str, fields: &[&str]) -> Vec<u8> {
    let mut text = format!("GET {target} HTTP/1.1\r\nHost: orders.example\r\n");
    for field in fields {
        text.push_str(field);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}
