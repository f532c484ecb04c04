//! How soon an end on one side is one on the other, whoever speaks what: 200 ms are promised, and asserted as a second.

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Response};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::versions::{get, http2};
use super::{PATIENCE, Way, request};

const SOON: Duration = Duration::from_secs(1);

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";

/// Where an exchange is when its caller goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Waiting,
    Answered,
    Uploading,
}

const MOMENTS: [Moment; 3] = [Moment::Waiting, Moment::Answered, Moment::Uploading];

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hears_soon_that_the_caller_hung_up() {
    for way in Way::each().await {
        for moment in MOMENTS {
            let asked = match moment {
                Moment::Uploading => request("PUT /slow HTTP/1.1", &["Content-Length: 100"]) + "half",
                Moment::Waiting | Moment::Answered => request("GET /slow HTTP/1.1", &[]),
            };
            let (mut caller, mut app, _) = way.opened(&asked).await;
            match moment {
                Moment::Waiting => {}
                Moment::Answered => {
                    app.say(CHUNKED).await;
                    caller.until("one").await.unwrap();
                }
                Moment::Uploading => _ = app.until("half").await.unwrap(),
            }
            let gone = Instant::now();
            drop(caller);
            assert!(app.gone().await, "{} {moment:?}", way.name);
            soon(&way, &format!("HTTP/1 caller gone, {moment:?}"), gone);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hears_soon_that_an_http2_caller_reset_its_stream() {
    for way in Way::each().await {
        let (mut requests, _driver) = http2(way.door()).await;
        for moment in MOMENTS {
            let mut head = get("/slow");
            let uploads = matches!(moment, Moment::Uploading);
            if uploads {
                *head.method_mut() = Method::PUT;
            }
            let (response, mut upload) = requests.send_request(head, !uploads).unwrap();
            let mut app = way.accepted().await;
            app.head().await.unwrap();
            let mut body = None;
            match moment {
                Moment::Waiting => {}
                Moment::Answered => {
                    app.say(CHUNKED).await;
                    let mut heard = response.await.unwrap().into_body();
                    assert_eq!(heard.data().await.unwrap().unwrap(), "one");
                    body = Some(heard);
                }
                Moment::Uploading => {
                    upload.send_data(Bytes::from_static(b"half"), false).unwrap();
                    app.until("half").await.unwrap();
                }
            }
            let gone = Instant::now();
            upload.send_reset(h2::Reason::CANCEL);
            assert!(app.gone().await, "{} {moment:?}", way.name);
            soon(&way, &format!("HTTP/2 caller gone, {moment:?}"), gone);
            drop(body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_app_hears_soon_that_the_caller_is_gone() {
    for way in Way::each_with("", "h2c").await {
        let (mut caller, (_, _asked, mut respond), _app) = {
            let mut caller = way.caller().await;
            caller.say(request("GET /slow HTTP/1.1", &[])).await;
            let (app, exchange) = App::accepted(&way).await;
            (caller, exchange, app)
        };
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"one"), false).unwrap();
        caller.until("one").await.unwrap();
        let gone = Instant::now();
        drop(caller);
        let reset = timeout(PATIENCE, poll_fn(|cx| answer.poll_reset(cx))).await;
        assert!(reset.is_ok(), "{}: HTTP/1 caller", way.name);
        soon(&way, "HTTP/1 caller of an HTTP/2 app gone", gone);

        let (mut requests, _driver) = http2(way.door()).await;
        let (response, mut upload) = requests.send_request(get("/slow"), true).unwrap();
        let (_app, (_, _asked, mut respond)) = App::accepted(&way).await;
        let gone = Instant::now();
        upload.send_reset(h2::Reason::CANCEL);
        let reset = timeout(PATIENCE, poll_fn(|cx| respond.poll_reset(cx))).await;
        assert!(reset.is_ok(), "{}: HTTP/2 caller", way.name);
        soon(&way, "HTTP/2 caller of an HTTP/2 app gone", gone);
        drop(response);
    }
}

/// What an app has said when it dies.
const DEATHS: [(&str, &str); 3] = [
    ("chunked", CHUNKED),
    ("with a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none"),
    ("until the end", "HTTP/1.1 200 OK\r\n\r\none"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hears_soon_that_the_app_died() {
    for way in Way::each().await {
        for (what, said) in DEATHS {
            for version in ["1.1", "1.0"] {
                let (mut caller, mut app, _) =
                    way.opened(&request(&format!("GET / HTTP/{version}"), &[])).await;
                app.say(said).await;
                let head = caller.head().await.unwrap();
                caller.until("one").await.unwrap();
                let died = Instant::now();
                app.die();
                let end = caller.end().await;
                soon(&way, &format!("app that answered {what} dead, HTTP/{version} caller"), died);
                assert!(!is_whole(&head, &end), "{} {what} to HTTP/{version}: {end:?}", way.name);
            }
            let (mut requests, _driver) = http2(way.door()).await;
            let (response, _) = requests.send_request(get("/"), true).unwrap();
            let mut app = way.accepted().await;
            app.head().await.unwrap();
            app.say(said).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "one");
            let died = Instant::now();
            app.die();
            let end = timeout(PATIENCE, body.data()).await.unwrap();
            soon(&way, &format!("app that answered {what} dead, HTTP/2 caller"), died);
            assert!(matches!(end, Some(Err(_))), "{} {what} to HTTP/2: {end:?}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hears_soon_that_an_http2_app_reset_its_answer() {
    for way in Way::each_with("", "h2c").await {
        let mut app = None;
        for length in [None, Some(100)] {
            for version in ["1.1", "1.0"] {
                let mut caller = way.caller().await;
                caller.say(request(&format!("GET / HTTP/{version}"), &[])).await;
                let mut answer = begin(&way, &mut app, length).await;
                let head = caller.head().await.unwrap();
                caller.until("one").await.unwrap();
                let died = Instant::now();
                answer.send_reset(h2::Reason::INTERNAL_ERROR);
                let end = caller.end().await;
                soon(&way, &format!("answer of an HTTP/2 app reset, HTTP/{version} caller"), died);
                assert!(!is_whole(&head, &end), "{} {length:?} to HTTP/{version}: {end:?}", way.name);
            }
            let (mut requests, _driver) = http2(way.door()).await;
            let (response, _) = requests.send_request(get("/"), true).unwrap();
            let mut answer = begin(&way, &mut app, length).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "one");
            let died = Instant::now();
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            let end = timeout(PATIENCE, body.data()).await.unwrap();
            soon(&way, "answer of an HTTP/2 app reset, HTTP/2 caller", died);
            assert!(matches!(end, Some(Err(_))), "{} {length:?} to HTTP/2: {end:?}", way.name);
        }
    }
}

type Asked = (http::Request<()>, h2::RecvStream, SendResponse<Bytes>);

/// Something that speaks HTTP/2 behind, on one connection.
struct App {
    asked: tokio::sync::mpsc::Receiver<Asked>,
    #[expect(dead_code, reason = "the connection ends with it")]
    connection: JoinSet<()>,
}

impl App {
    /// Once the first request is there.
    async fn accepted(way: &Way) -> (Self, Asked) {
        let stream = way.accepted().await.stream;
        let (requests, asked) = tokio::sync::mpsc::channel(8);
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (parts, body) = request.into_parts();
                let asked = (http::Request::from_parts(parts, ()), body, respond);
                if requests.send(asked).await.is_err() {
                    return;
                }
            }
        });
        let mut app = Self { asked, connection };
        let first = app.next().await;
        (app, first)
    }

    async fn next(&mut self) -> Asked {
        timeout(PATIENCE, self.asked.recv()).await.unwrap().unwrap()
    }
}

/// Answers the next request as far as `one`.
async fn begin(way: &Way, app: &mut Option<App>, length: Option<u64>) -> h2::SendStream<Bytes> {
    // A connection whose exchange was cut is not used again.
    let (accepted, (_, _, mut respond)) = App::accepted(way).await;
    *app = Some(accepted);
    let mut head = Response::new(());
    if let Some(length) = length {
        head.headers_mut().insert("content-length", length.into());
    }
    let mut answer = respond.send_response(head, false).unwrap();
    answer.send_data(Bytes::from_static(b"one"), false).unwrap();
    answer
}

#[expect(clippy::print_stdout, reason = "the figure, for who asks for it")]
fn soon(way: &Way, what: &str, since: Instant) {
    let after = since.elapsed();
    println!("{}: {what}: {after:?}", way.name);
    assert!(after < SOON, "{}: {what}: {after:?}", way.name);
}

/// Whether a caller of HTTP/1 takes an answer, which ended so after its head, for whole.
pub(super) fn is_whole(head: &str, end: &io::Result<String>) -> bool {
    let Ok(rest) = end else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding") {
        rest.contains("0\r\n\r\n")
    } else {
        // A length was promised of which only the beginning came; without one a proper end makes it whole.
        !head.contains("content-length")
    }
}
