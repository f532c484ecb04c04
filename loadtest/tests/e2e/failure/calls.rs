//! A caller at one stage of one exchange, and what it gets in the end. It knows nothing of what happens meanwhile.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use culvert_loadtest::message::{self, Kind, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::app::{HALF, REST};
use super::table::{Cell, Outcome, Stage};

/// Longer than anything takes that is promised: then it is a caller who was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(90);

pub(super) struct Call {
    pub(super) cell: Cell,
    begun: Instant,
    stream: TcpStream,
    heard: Vec<u8>,
}

/// How one ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) cell: Cell,
    pub(super) begun: Instant,
    pub(super) at: Instant,
    pub(super) got: Result<Outcome, String>,
}

impl Call {
    /// The request is said; of an answer that is to be under way, half is heard.
    pub(super) async fn begin(cell: Cell, door: SocketAddr) -> io::Result<Self> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(door).await?;
        stream.set_nodelay(true)?;
        let uploads = cell.stage == Stage::Uploading;
        let body = if uploads {
            HALF
        } else if cell.safe {
            ""
        } else {
            "once"
        };
        let length = if uploads { HALF.len() + REST.len() } else { body.len() };
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: orders.example\r\nx-user: {}\r\nContent-Length: {length}\r\n\r\n{body}",
            cell.method(),
            cell.path(),
            cell.user()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut heard = Vec::new();
        while cell.stage == Stage::Answering && !String::from_utf8_lossy(&heard).contains(HALF) {
            if stream.read_buf(&mut heard).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Self { cell, begun, stream, heard })
    }

    /// From its beginning to its end.
    pub(super) async fn whole(cell: Cell, door: SocketAddr) -> Ended {
        let begun = Instant::now();
        match Self::begin(cell, door).await {
            Ok(call) => call.end(&CancellationToken::new()).await,
            Err(_) => Ended { cell, begun, at: Instant::now(), got: Ok(Outcome::Reset) },
        }
    }

    /// `go_on`: what is left of an upload is said.
    pub(super) async fn end(mut self, go_on: &CancellationToken) -> Ended {
        let got = match timeout(FORGOTTEN, self.hear(go_on)).await {
            Ok(got) => got,
            Err(_) => Err("nothing at all".to_owned()),
        };
        Ended { cell: self.cell, begun: self.begun, at: Instant::now(), got }
    }

    async fn hear(&mut self, go_on: &CancellationToken) -> Result<Outcome, String> {
        let mut uploads = self.cell.stage == Stage::Uploading;
        loop {
            let read = tokio::select! {
                biased;
                () = go_on.cancelled(), if uploads => None,
                read = message::read(&mut self.stream, &mut self.heard, Kind::Response) => Some(read),
            };
            let answer = match read {
                None => {
                    uploads = false;
                    // If nobody takes it the answer says so.
                    let _ = self.stream.write_all(REST.as_bytes()).await;
                    continue;
                }
                Some(Ok(Some(answer))) => answer,
                Some(_) if self.heard.windows(4).any(|end| end == b"\r\n\r\n") => return Ok(Outcome::Cut),
                Some(_) => return Ok(Outcome::Reset),
            };
            let outcome = judge(&answer)?;
            // What is left of an upload that nobody reads would be taken for the next request.
            if uploads && !self.is_over().await {
                return Err(format!("{outcome:?}, and the connection is kept with half an upload unread"));
            }
            return Ok(outcome);
        }
    }

    async fn is_over(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.heard);
        !matches!(timeout(Duration::from_secs(5), reading).await, Err(_) | Ok(Ok(1..)))
    }
}

fn judge(answer: &Message) -> Result<Outcome, String> {
    let text = answer.text();
    let failure = answer.field("culvert-failure");
    match (answer.status(), failure.as_deref()) {
        (200, None) if text.starts_with("app ") || text == format!("{HALF}{REST}") => Ok(Outcome::App),
        (200, None) if text.starts_with("upstream ") => Ok(Outcome::Upstream),
        (503, Some("developer_unreachable")) if answer.field("retry-after").is_some() => {
            Ok(Outcome::Unavailable)
        }
        (502, Some("tunnel_lost")) => Ok(Outcome::TunnelLost),
        (502, Some("app_no_answer")) => Ok(Outcome::AppNoAnswer),
        _ => Err(String::from_utf8_lossy(&answer.bytes).into_owned()),
    }
}
