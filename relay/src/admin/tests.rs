//! What a probe, a scraper and a stranger get from the admin port.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

struct World {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(serve(listener, readiness.clone(), Arc::new(Metrics::new()), stop.clone()));
        Self { address, readiness, stop, running }
    }

    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    async fn fetch(&self, target: &str) -> String {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")).await
    }
}

#[tokio::test]
async fn a_probe_learns_in_which_phase_the_relay_is() {
    let world = World::new().await;
    assert!(world.fetch("/live").await.starts_with("HTTP/1.1 200"));
    let starting = world.fetch("/ready").await;
    assert!(starting.starts_with("HTTP/1.1 503") && starting.ends_with("starting\n"), "{starting}");
    world.readiness.ready();
    assert!(world.fetch("/ready").await.starts_with("HTTP/1.1 200"));
    world.readiness.draining();
    let draining = world.fetch("/ready").await;
    assert!(draining.starts_with("HTTP/1.1 503") && draining.ends_with("draining\n"), "{draining}");
    assert!(world.fetch("/live").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_scraper_gets_openmetrics() {
    let world = World::new().await;
    let answer = world.fetch("/metrics").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.contains("culvert_panics_total 0\n") && answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found_however_it_is_spelt() {
    let world = World::new().await;
    for target in ["/", "/metrics/", "/live/../metrics", "//metrics", "/%6detrics", "/METRICS"] {
        let answer = world.fetch(target).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{target}: {answer}");
    }
    let post = "POST /ready HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(world.ask(post).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn a_probe_that_hangs_does_not_keep_the_relay_from_stopping() {
    let mut world = World::new().await;
    let _idle = TcpStream::connect(world.address).await.unwrap();
    let mut half = TcpStream::connect(world.address).await.unwrap();
    half.write_all(b"GET /rea").await.unwrap();
    assert!(world.fetch("/live").await.starts_with("HTTP/1.1 200"));
    let since = Instant::now();
    world.stop.cancel();
    world.running.join_next().await.unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}
