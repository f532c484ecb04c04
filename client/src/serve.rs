//! Requests, on the laptop: accept a stream, read its head, hand it to the app, copy both ways, record.
//!
//! The app is the one that was declared for the claim; nothing that comes down a tunnel chooses an address.

mod app;
mod failure;
mod record;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::{OriginTlsError, origin_client};
use culvert_protocol::body::TunnelReader;
use culvert_protocol::frame::{self, Frame, Refusal};
use culvert_protocol::head::{Opening, decode_opening};
use culvert_protocol::message::RequestHead;
use culvert_protocol::origin::{Address, Origin, Speaks, Tls};
use culvert_protocol::tunnel::{SendHalf, Stream, Tunnel};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::screen::Screen;
use app::Served;
use record::Record;

/// What an exchange waits for a relay to say, or to take off our hands, which takes it a round trip. More than twice as long as a
/// silent tunnel lives: the clock goes on while this process is stopped, and what the relay has said meanwhile is read a moment
/// after it continues. A relay that is gone ends the wait by its tunnel's end.
const RELAY: Duration = Duration::from_secs(30);

/// Which app serves which claim.
#[derive(Debug)]
pub struct Apps(
    HashMap<u64, Origin>,
    /// The claims whose app was not there for the last request. That was said, and is not for each one that the relay then sends
    /// elsewhere.
    Mutex<HashSet<u64>>,
);

impl Apps {
    /// Reads the system's certificate authorities where an app is to be believed by them, which takes tens of milliseconds.
    pub fn new(apps: impl IntoIterator<Item = (u64, App)>) -> Result<Self, AppTlsError> {
        let origins =
            apps.into_iter().map(|(claim, app)| Ok((claim, origin(app)?))).collect::<Result<_, _>>()?;
        Ok(Self(origins, Mutex::default()))
    }
}

impl Apps {
    /// Whether an app is still not there.
    fn is_known(&self, claim: u64, served: &Served) -> bool {
        let mut down = self.1.lock();
        match served {
            Served::Unreachable(_) => !down.insert(claim),
            Served::Answered | Served::Failed(_) => {
                down.remove(&claim);
                false
            }
        }
    }
}

fn origin(app: App) -> Result<Origin, AppTlsError> {
    let shown = app.to_string();
    Ok(match app {
        App::Tcp { host, port } => Origin::new(Address::Tcp { host, port }, Speaks::Http1),
        App::H2c { host, port } => Origin::new(Address::Tcp { host, port }, Speaks::Http2),
        App::Https { host, port, name, trust } => {
            let config = origin_client(trust).map_err(|source| AppTlsError { app: shown, source })?;
            Origin::new(Address::Tcp { host, port }, Speaks::Tls(Tls::new(config, name)))
        }
        App::Unix(path) => Origin::new(Address::Unix { path }, Speaks::Http1),
    })
}

/// An app over TLS cannot be verified with what this machine has.
#[derive(Debug, thiserror::Error)]
#[error("preparing TLS to the app {app}")]
pub struct AppTlsError {
    app: String,
    source: OriginTlsError,
}

/// Serves every stream of a tunnel until the tunnel is over, or until `stop`: then what is under way, to its end, while
/// what still comes is refused, for the relay to send elsewhere. Dropping the future aborts what is under way.
pub async fn accept(tunnel: Tunnel, apps: Arc<Apps>, screen: Screen, stop: CancellationToken) {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if requests.is_empty() => return,
            Some(_) = requests.join_next() => {}
            stream = tunnel.accept() => {
                let Ok(stream) = stream else { break };
                let (apps, screen, leaving) = (Arc::clone(&apps), screen.clone(), stop.is_cancelled());
                // Boxed, because a task is moved several times until it runs, and this is ten kilobytes.
                requests.spawn(Box::pin(async move { request(stream, &apps, &screen, leaving).await }));
            }
        }
    }
    while requests.join_next().await.is_some() {}
}

/// Serves one request. If this ends before the answer does, the stream is reset, and the relay knows that it was cut.
async fn request(stream: Stream, apps: &Apps, screen: &Screen, leaving: bool) {
    let (read, write) = stream.split();
    let (mut frames, mut answers) = (TunnelReader::new(read), frame::Writer::new(write));
    let mut head = RequestHead::default();
    let Some((claim, confirm)) = opening(&mut frames, &mut head).await else { return };
    if leaving {
        return refuse(&mut answers, Refusal::Draining, "leaving", None).await;
    }
    let mut record = Record::begin(screen, &head);
    let Some(origin) = apps.0.get(&claim) else {
        return refuse(&mut answers, Refusal::NoSuchClaim, "no such claim", Some(&mut record)).await;
    };
    record.goes_to(origin.address());
    let served = app::serve(&head, confirm, &mut frames, &mut answers, origin, &mut record).await;
    if apps.is_known(claim, &served) {
        record.is_known();
    }
    match served {
        Served::Answered => {}
        Served::Unreachable(cause) => {
            refuse(&mut answers, Refusal::AppUnreachable, &cause, Some(&mut record)).await
        }
        Served::Failed(failure) => failure.answer(&mut answers, &mut record).await,
    }
}

/// What the stream was opened for: the claim, and whether the app may have it only once the relay confirms it.
async fn opening(frames: &mut TunnelReader, head: &mut RequestHead) -> Option<(u64, bool)> {
    let read = async {
        loop {
            let Some(frame) = frames.frames.frame().ok()? else {
                if frames.frames.fill().await.ok()? == 0 {
                    return None;
                }
                continue;
            };
            let Frame::Head(payload) = frame else { return None };
            let Opening::Http { claim, confirm, .. } = decode_opening(payload, head).ok()?;
            return Some((claim, confirm));
        }
    };
    timeout(RELAY, read).await.ok().flatten()
}

/// Says that nothing was executed and nothing will be: the relay may send the request elsewhere.
async fn refuse(
    answers: &mut frame::Writer<SendHalf>,
    why: Refusal,
    text: &str,
    record: Option<&mut Record<'_>>,
) {
    if let Some(record) = record {
        record.failed(text);
    }
    if answers.refused(why, text).is_ok() {
        // A relay that is gone sends the request elsewhere all the same.
        let _ = timeout(RELAY, answers.finish()).await;
    }
}

#[cfg(test)]
mod tests;
