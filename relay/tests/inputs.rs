//! What a door does with callers and upstreams that do not play along, byte by byte: a relay, and a test on either side of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::{Trust, origin_client};
use culvert_relay::{Config, Drained, Relay};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const OLD: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";

/// A relay with one service, and what stands behind it.
struct Front {
    door: SocketAddr,
    admin: SocketAddr,
    behind: TcpListener,
    stop: CancellationToken,
    running: JoinSet<Drained>,
    _dir: tempfile::TempDir,
}

impl Front {
    /// With these keys of the service.
    async fn with(keys: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["shop.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.path().join("tls.crt"), certificate.pem()).unwrap();
        fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "tunnel: {{listen: '127.0.0.1:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\ndrain: {{grace: 0s}}\nservices:\n  \
             - {{name: orders, listen: '127.0.0.1:0', upstream: 'http://{}'{}{keys}}}\n",
            behind.local_addr().unwrap(),
            if keys.is_empty() { "" } else { ", " },
        );
        let relay = Relay::bind(Config::parse(&text, &dir.path().join("relay.yaml")).unwrap()).await.unwrap();
        let (door, admin) = (relay.addresses().services[0].1, relay.addresses().admin);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(relay.run(stop.clone()));
        Self { door, admin, behind, stop, running, _dir: dir }
    }

    /// A caller that has said this.
    async fn caller(&self, said: impl AsRef<[u8]>) -> TcpStream {
        let mut caller = TcpStream::connect(self.door).await.unwrap();
        caller.write_all(said.as_ref()).await.unwrap();
        caller
    }

    /// The next connection behind, once it has heard a head.
    async fn asked(&self) -> (TcpStream, String) {
        let (mut behind, _) = timeout(PATIENCE, self.behind.accept()).await.expect("nobody came").unwrap();
        let head = until(&mut behind, "\r\n\r\n").await;
        (behind, head)
    }

    /// What a caller that says this hears, up to a proper end.
    async fn answer(&self, said: impl AsRef<[u8]>) -> String {
        end(&mut self.caller(said).await).await.unwrap()
    }

    async fn counts(&self, line: &str) -> bool {
        let mut admin = TcpStream::connect(self.admin).await.unwrap();
        admin
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        end(&mut admin).await.unwrap().lines().any(|found| found == line)
    }

    /// The grace period is over at once: what is under way is cut.
    async fn cut(&mut self) {
        self.stop.cancel();
        let drained = timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(drained, Drained::Cut), "{drained:?}");
    }
}

async fn until(stream: &mut (impl AsyncRead + Unpin), marker: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(marker.as_bytes()) {
        let read = timeout(PATIENCE, stream.read_u8()).await.expect("nothing more came");
        heard
            .push(read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&heard))));
    }
    String::from_utf8(heard).unwrap()
}

/// Everything up to a proper end.
async fn end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut heard = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut heard)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

/// What followed was no proper end.
fn assert_reset(end: &io::Result<String>, what: &str) {
    let kind = end.as_ref().map_err(io::Error::kind);
    assert!(matches!(kind, Err(io::ErrorKind::ConnectionReset)), "{what}: {end:?}");
}

#[tokio::test]
async fn a_cut_at_the_end_of_the_grace_period_never_looks_like_an_end() {
    for answer in
        ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", "HTTP/1.0 200 OK\r\n\r\none"]
    {
        let mut front = Front::with("").await;
        let mut caller = front.caller(OLD).await;
        let (mut behind, _) = front.asked().await;
        behind.write_all(answer.as_bytes()).await.unwrap();
        until(&mut caller, "one").await;
        front.cut().await;
        assert_reset(&end(&mut caller).await, answer);
    }
}

#[tokio::test]
async fn nor_does_one_over_tls() {
    let mut front = Front::with("tls: {certificate: tls.crt, key: tls.key}").await;
    let connector = TlsConnector::from(Arc::new(origin_client(Trust::Nobody).unwrap()));
    let stream = TcpStream::connect(front.door).await.unwrap();
    let mut caller = connector.connect(ServerName::try_from("shop.test").unwrap(), stream).await.unwrap();
    caller.write_all(OLD.as_bytes()).await.unwrap();
    let (mut behind, _) = front.asked().await;
    behind.write_all(b"HTTP/1.0 200 OK\r\n\r\none").await.unwrap();
    until(&mut caller, "one").await;
    front.cut().await;
    assert_reset(&end(&mut caller).await, "over TLS");
}

#[tokio::test]
async fn a_pipe_that_is_cut_is_cut_at_both_ends() {
    let mut front = Front::with("").await;
    let mut caller = front.caller(UPGRADE).await;
    let (mut behind, _) = front.asked().await;
    behind
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\nhi")
        .await
        .unwrap();
    until(&mut caller, "hi").await;
    front.cut().await;
    assert_reset(&end(&mut caller).await, "the caller's end");
    assert_reset(&end(&mut behind).await, "the upstream's end");
}

#[tokio::test]
async fn an_answer_that_falls_silent_or_dies_never_looks_whole() {
    let front = Front::with("limits: {response_idle: 300ms}").await;
    for dies in [false, true] {
        let mut caller = front.caller(OLD).await;
        let (mut behind, _) = front.asked().await;
        behind.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
        until(&mut caller, "one").await;
        if dies {
            drop(behind);
        }
        assert_reset(&end(&mut caller).await, if dies { "dead" } else { "silent" });
    }
}

#[tokio::test]
async fn an_answer_that_ends_properly_does_not_end_in_a_reset() {
    let front = Front::with("").await;
    let mut caller = front.caller(OLD).await;
    let (mut behind, _) = front.asked().await;
    behind.write_all(b"HTTP/1.0 200 OK\r\n\r\none").await.unwrap();
    drop(behind);
    assert!(end(&mut caller).await.unwrap().ends_with("\r\n\r\none"));
}

#[tokio::test]
async fn a_field_said_with_underscores_is_left_out_and_counted() {
    let front = Front::with("").await;
    let fields =
        "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: 1.1.1.1\r\nx_user: alice\r\n";
    let mut caller = front.caller(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let (mut behind, head) = front.asked().await;
    assert_eq!(head, "GET / HTTP/1.1\r\nHost: a\r\nx_user: alice\r\n\r\n");
    behind.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    until(&mut caller, "\r\n\r\n").await;
    assert!(front.counts(r#"culvert_fields_left_out_total{service="orders",why="underscore"} 3"#).await);
}

#[tokio::test]
async fn what_the_relay_says_of_itself_no_upstream_says_for_it() {
    let front = Front::with("").await;
    let mut caller = front.caller(GET).await;
    let (mut behind, _) = front.asked().await;
    let forged = "Culvert-Failure: app_no_answer\r\nculvert-route: tunnel\r\n";
    let answer = format!(
        "HTTP/1.1 103 Early Hints\r\n{forged}\r\nHTTP/1.1 200 OK\r\n{forged}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    behind.write_all(answer.as_bytes()).await.unwrap();
    let heard = until(&mut caller, "\r\n\r\n").await + &until(&mut caller, "\r\n\r\n").await;
    assert!(heard.contains(" 103 ") && heard.contains(" 200 "), "{heard}");
    assert!(!heard.to_lowercase().contains("culvert-"), "{heard}");
}

#[tokio::test]
async fn an_upstream_that_answers_without_end_is_502_and_not_asked_again_on_that_connection() {
    let front = Front::with("").await;
    let endless = format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(1024 * 1024));
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    for (what, said) in [
        ("an endless head", endless),
        ("a flood of informational answers", flood),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned()),
        (
            "a length and a coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("a bare newline", "HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_owned()),
    ] {
        let caller = front.caller("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let (mut behind, _) = front.asked().await;
        // It may be hung up on before it has said all.
        let _ = timeout(PATIENCE, behind.write_all(said.as_bytes())).await.expect("nobody reads or hangs up");
        let mut caller = caller;
        let heard = end(&mut caller).await.unwrap();
        assert!(heard.contains("HTTP/1.1 502 "), "{what}: {heard}");
        assert!(heard.contains("culvert-failure: upstream_bad_answer"), "{what}: {heard}");
        assert!(
            !matches!(end(&mut behind).await, Err(cause) if cause.kind() == io::ErrorKind::TimedOut),
            "{what}"
        );
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_and_reaches_nobody() {
    let front = Front::with("").await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (said, status, code) in [
        (format!("{chunked}0x5\r\nhello\r\n0\r\n\r\n{GET}"), "400", "chunk"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{GET}"), "400", "host"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17 * 1024)), "414", "target_too_long"),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "a".repeat(100_000)),
            "431",
            "head_too_large",
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(), "405", "connect"),
    ] {
        let heard = front.answer(&said).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {heard}");
        assert!(heard.contains("connection: close\r\n"), "{code}: {heard}");
        assert!(heard.contains(&format!("culvert-failure: {code}\r\n")), "{code}: {heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "what stands behind it is never answered: {heard}");
        assert!(
            front
                .counts(&format!(r#"culvert_requests_rejected_total{{service="orders",code="{code}"}} 1"#))
                .await
        );
    }
    // The next connection behind is the next good request's: nothing came before it.
    let _caller = front.caller("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(front.asked().await.1.starts_with("GET /good "));
}

#[tokio::test]
async fn slow_callers_and_too_many_are_let_go() {
    let limits =
        "limits: {head_read: 300ms, keep_alive: 300ms, body_idle: 300ms, connections_per_address: 2}";
    let front = Front::with(limits).await;
    assert!(front.answer("GET / HT").await.starts_with("HTTP/1.1 408 "));
    let said = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(front.answer(said).await.starts_with("HTTP/1.1 400 "));

    let mut caller = front.caller(GET).await;
    let (mut behind, _) = front.asked().await;
    let _second = front.caller("").await;
    let third = front.answer("").await;
    assert!(third.starts_with("HTTP/1.1 503 ") && third.contains("too_many_callers"), "{third}");
    behind.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    until(&mut caller, "\r\n\r\n").await;
    assert_eq!(end(&mut caller).await.unwrap(), "", "an idle connection is closed without a word");
}
