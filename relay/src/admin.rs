//! The relay's own HTTP: whether it lives, whether it is ready, and its metrics. Holds nothing that steers traffic.
//!
//! hyper serves it, through axum, and directly because `axum::serve` sets no limit to how long a request's head may take.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;

/// From a connection, or from the last answer on it, to the end of the next request's head.
const HEAD: Duration = Duration::from_secs(10);
/// Scrapers, probes and people: more is a mistake.
const CONNECTIONS: usize = 100;
/// Nothing here takes a body yet.
const BODY: usize = 64 << 10;
/// What a probe in flight may still take when everything else is over.
const GOODBYE: Duration = Duration::from_secs(1);
/// After a failed accept: trying again at once would only burn the core.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What probes are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<RwLock<Phase>>);

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Starting,
    Ready,
    Draining,
}

#[derive(Clone, Debug)]
struct Shown {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

impl Readiness {
    pub(crate) fn ready(&self) {
        *self.0.write() = Phase::Ready;
    }

    pub(crate) fn draining(&self) {
        *self.0.write() = Phase::Draining;
    }
}

/// Answers until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let router = router(Shown { readiness, metrics });
    let connections = TaskTracker::new();
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match (accepted, Arc::clone(&seats).try_acquire_owned()) {
            (Ok((stream, _)), Ok(seat)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    let _seat = seat;
                    connection(stream, router, stop).await;
                });
            }
            (Ok(_), Err(_)) => {}
            (Err(cause), _) => {
                tracing::warn!("accepting a connection to the admin port: {cause}");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = timeout(GOODBYE, connections.wait()).await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    // What fails here is the prober's connection, and its own to notice.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(GOODBYE, serving).await;
        }
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(shown)
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    match *shown.readiness.0.read() {
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n"),
    }
}

async fn scrape(State(shown): State<Shown>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPENMETRICS)], shown.metrics.encode())
}

#[cfg(test)]
mod tests;
