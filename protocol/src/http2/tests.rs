//! Heads between HTTP/2 and the one representation: what HTTP/1 would refuse is refused here too.

use bytes::Bytes;

use super::*;
use crate::body::Piece;
use crate::message::{Body, Fields, Malformed, RequestHead, ResponseHead, Version};

type Lines<'a> = &'a [(&'a str, &'a [u8])];

fn parts(method: &str, uri: &str, lines: Lines<'_>) -> http::request::Parts {
    let mut request = http::Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in lines {
        request = request.header(*name, http::HeaderValue::from_bytes(value).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn taken(method: &str, uri: &str, lines: Lines<'_>, ended: bool) -> Result<RequestHead, Malformed> {
    let mut head = RequestHead::default();
    request(&parts(method, uri, lines), ended, &mut head).map(|()| head)
}

fn lines(fields: &Fields) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| (name.escape_ascii().to_string(), value.escape_ascii().to_string()))
        .collect()
}

fn line(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_request_is_the_same_as_over_http1() {
    let head = taken(
        "GET",
        "https://app.test:8080//a/../%2e?x=%2F|",
        &[
            ("x-b", b"1"),
            ("cookie", b"a=1"),
            ("x-a", b"caf\xe9"),
            ("cookie", b"b=2"),
            ("x-b", b"2"),
            ("te", b"trailers"),
        ],
        true,
    )
    .unwrap();
    assert_eq!(head.target, b"//a/../%2e?x=%2F|");
    assert_eq!((head.version, head.body, head.takes_trailers), (Version::Http2, Body::Empty, true));
    assert_eq!(lines(&head.fields)[0], line("host", "app.test:8080"));
    assert!(lines(&head.fields).contains(&line("cookie", "a=1; b=2")), "crumbs are one cookie again");
    assert!(lines(&head.fields).contains(&line("x-a", "caf\\xe9")));
    assert_eq!(head.fields.all("x-b").collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(!head.fields.contains("te"));
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_request_that_http1_would_refuse_is_malformed() {
    use Malformed::{Connect, ContentLength, HopByHop, Host, Target};
    let length: Lines<'_> = &[("content-length", b"5")];
    type Row<'a> = (&'a str, &'a str, &'a str, Lines<'a>, bool, Result<(), Malformed>);
    let rows: [Row<'_>; 24] = [
        ("plain", "GET", "http://a/", &[], true, Ok(())),
        ("no authority", "GET", "/", &[], true, Err(Host)),
        ("only host", "GET", "/", &[("host", b"a")], true, Ok(())),
        ("host as authority", "GET", "http://a/", &[("host", b"a")], true, Ok(())),
        ("other host", "GET", "http://a/", &[("host", b"b")], true, Err(Host)),
        ("host and another", "GET", "http://a/", &[("host", b"a"), ("host", b"b")], true, Err(Host)),
        ("two hosts", "GET", "/", &[("host", b"a"), ("host", b"a")], true, Err(Host)),
        ("user", "GET", "http://u@a/", &[], true, Err(Host)),
        ("connection", "GET", "http://a/", &[("connection", b"close")], true, Err(HopByHop)),
        ("coding", "GET", "http://a/", &[("transfer-encoding", b"chunked")], true, Err(HopByHop)),
        ("upgrade", "GET", "http://a/", &[("upgrade", b"h2c")], true, Err(HopByHop)),
        ("keep-alive", "GET", "http://a/", &[("keep-alive", b"a")], true, Err(HopByHop)),
        ("connect", "CONNECT", "a:22", &[], false, Err(Connect)),
        ("star", "OPTIONS", "*", &[("host", b"a")], true, Ok(())),
        ("space before a value", "GET", "http://a/", &[("x", b" a")], true, Err(Malformed::Value)),
        ("tab after a value", "GET", "http://a/", &[("x", b"a\t")], true, Err(Malformed::Value)),
        ("target beyond ascii", "GET", "http://a/\u{e9}", &[], true, Err(Target)),
        ("length", "POST", "http://a/", length, false, Ok(())),
        ("length and no body", "POST", "http://a/", length, true, Err(ContentLength)),
        ("length of no body", "POST", "http://a/", &[("content-length", b"0")], true, Ok(())),
        ("two lengths", "POST", "http://a/", &[("content-length", b"5"), ("content-length", b"5")], false, Err(ContentLength)),
        ("length with a sign", "POST", "http://a/", &[("content-length", b"+5")], false, Err(ContentLength)),
        ("length list", "POST", "http://a/", &[("content-length", b"5, 5")], false, Err(ContentLength)),
        ("length of nothing", "POST", "http://a/", &[("content-length", b"")], false, Err(ContentLength)),
    ];
    for (name, method, uri, lines, ended, wanted) in rows {
        assert_eq!(taken(method, uri, lines, ended).map(|_| ()), wanted, "{name}");
    }
}

#[test]
fn a_body_is_framed_by_what_was_said_of_it() {
    let length: Lines<'_> = &[("content-length", b"5")];
    for (lines, ended, body) in
        [(&[][..], true, Body::Empty), (&[], false, Body::Streamed), (length, false, Body::Exact(5))]
    {
        assert_eq!(taken("POST", "http://a/", lines, ended).unwrap().body, body);
    }
}

#[test]
fn a_name_spelt_with_underscores_is_not_a_second_way_to_say_it() {
    let head = taken(
        "GET",
        "http://a/",
        &[("x_forwarded_for", b"::1"), ("content_length", b"5"), ("culvert_route", b"x"), ("x_mine", b"y")],
        true,
    )
    .unwrap();
    assert_eq!(lines(&head.fields), [line("host", "a"), line("x_mine", "y")]);
}

#[test]
fn a_head_is_overwritten() {
    let mut head = RequestHead {
        upgrade: b"x".to_vec(),
        nominated: b"y,".to_vec(),
        takes_trailers: true,
        body: Body::Streamed,
        ..RequestHead::default()
    };
    request(&parts("GET", "http://a/", &[]), true, &mut head).unwrap();
    assert_eq!(head, taken("GET", "http://a/", &[], true).unwrap());
}

#[test]
fn a_caller_waits_for_100_only_with_a_body() {
    let expect: Lines<'_> = &[("expect", b"100-Continue")];
    assert!(taken("POST", "http://a/", expect, false).unwrap().expects_continue);
    assert!(!taken("POST", "http://a/", expect, true).unwrap().expects_continue);
}

#[test]
fn a_response_keeps_its_fields() {
    let fields: Fields =
        [(&b"Set-Cookie"[..], &b"a"[..]), (b"X-A", b"caf\xe9"), (b"set-cookie", b"b")].into_iter().collect();
    let head = ResponseHead { status: 599, reason: b"Nobody".to_vec(), fields, ..ResponseHead::default() };
    let said = response(&head).unwrap();
    assert_eq!(said.status(), 599);
    assert_eq!(said.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(said.headers()["x-a"].as_bytes(), b"caf\xe9");
}

#[test]
fn a_response_that_cannot_be_said_is_an_error() {
    let with = |name: &[u8], value: &[u8]| ResponseHead {
        status: 200,
        fields: [(name, value)].into_iter().collect(),
        ..ResponseHead::default()
    };
    assert_eq!(response(&with(b"a b", b"")).unwrap_err(), Malformed::Name);
    assert_eq!(response(&with(b"a", b"b\r\nc: d")).unwrap_err(), Malformed::Value);
    assert_eq!(response(&ResponseHead::default()).unwrap_err(), Malformed::Status);
}

/// One exchange over memory: the app's side runs `answer` with what it got.
async fn exchange<F: Future<Output = ()>>(
    said: &[u8],
    trailers: http::HeaderMap,
    answer: impl FnOnce(Reader, h2::server::SendResponse<Bytes>) -> F,
) -> (http::response::Parts, Vec<u8>, Option<http::HeaderMap>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        let answered = answer(Reader::new(request.into_body()), respond);
        tokio::join!(answered, async { while connection.accept().await.is_some() {} });
    };
    let client = async {
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let talk = async {
            let request = http::Request::post("http://a/").body(()).unwrap();
            let (response, mut stream) = send.send_request(request, false).unwrap();
            stream.send_data(Bytes::copy_from_slice(said), false).unwrap();
            stream.send_trailers(trailers).unwrap();
            let (parts, mut body) = response.await.unwrap().into_parts();
            let mut heard = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                heard.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.unwrap();
            drop(send);
            (parts, heard, trailers)
        };
        let (heard, ended) = tokio::join!(talk, connection);
        ended.unwrap();
        heard
    };
    tokio::join!(server, client).1
}

/// What is agreed to over extended CONNECT is passed on as the bytes that they are; another HTTP/2 connection would be one
/// that nobody reads.
#[test]
fn no_second_http2_is_tunnelled_in_the_first() {
    for (protocol, wanted) in [
        ("websocket", Ok(())),
        ("connect-udp", Ok(())),
        ("h2c", Err(Malformed::Upgrade)),
        ("H2C", Err(Malformed::Upgrade)),
        ("websocket, h2c", Err(Malformed::Upgrade)),
        ("", Err(Malformed::Upgrade)),
    ] {
        let mut parts = parts("CONNECT", "http://a/", &[]);
        parts.extensions.insert(h2::ext::Protocol::from(protocol));
        let taken = request(&parts, false, &mut RequestHead::default());
        assert_eq!(taken, wanted, "{protocol}");
    }
}

#[test]
fn a_request_that_names_no_host_is_for_the_origin() {
    let head = RequestHead { method: b"GET".to_vec(), target: b"/a".to_vec(), ..RequestHead::default() };
    let (request, _) = request_to(&head, "http", "orders:9001").unwrap();
    assert_eq!(request.uri(), "http://orders:9001/a");
}

/// RFC 9113 §8.3.1: `*` stays `*`, and as an HTTP/2 origin reads it.
#[tokio::test]
async fn a_question_about_the_whole_server_stays_one() {
    let head = RequestHead {
        method: b"OPTIONS".to_vec(),
        target: b"*".to_vec(),
        fields: [(&b"host"[..], &b"a"[..])].into_iter().collect(),
        ..RequestHead::default()
    };
    let (request, ended) = request_to(&head, "http", "b").unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        tokio::join!(async { while connection.accept().await.is_some() {} });
        request.into_parts().0
    };
    let client = async {
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let (response, _) = send.send_request(request, ended).unwrap();
        drop(send);
        let answered = async { response.await.unwrap().status() };
        let (status, ended) = tokio::join!(answered, connection);
        ended.unwrap();
        status
    };
    let (parts, status) = tokio::join!(server, client);
    assert_eq!(status, 200);
    let mut heard = RequestHead::default();
    super::request(&parts, true, &mut heard).unwrap();
    assert_eq!((heard.method, heard.target), (b"OPTIONS".to_vec(), b"*".to_vec()));
    assert_eq!(heard.fields.first("host"), Some(&b"a"[..]));
}

#[tokio::test]
async fn trailers_pass_both_ways_except_those_that_steer() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("content-length", "5".parse().unwrap());
    trailers.insert("culvert-route", "x".parse().unwrap());
    let (_, body, heard) = exchange(b"hello", trailers, |mut reader, mut respond| async move {
        let mut body = Vec::new();
        let trailers = loop {
            match reader.piece().unwrap() {
                Some(Piece::Data(data)) => body.extend_from_slice(data),
                Some(Piece::End(trailers)) => break trailers.cloned().unwrap(),
                None => reader.fill().await.unwrap(),
            }
        };
        assert!(reader.is_done());
        assert_eq!(lines(&trailers), [line("x-sum", "1")]);
        let stream = respond.send_response(http::Response::new(()), false).unwrap();
        let mut writer = Writer::new(stream, false, Body::Streamed);
        for piece in body.chunks(2) {
            writer.data(piece).await.unwrap();
        }
        let mut trailers = trailers;
        trailers.push(b"host", b"evil");
        trailers.push(b"transfer-encoding", b"chunked");
        writer.end(Some(&trailers)).await.unwrap();
    })
    .await;
    assert_eq!(body, b"hello");
    let heard = heard.unwrap();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard["x-sum"], "1");
}

#[tokio::test]
async fn a_body_larger_than_every_window_arrives_whole() {
    let body: Vec<u8> = (0..400_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let sent = body.clone();
    let (_, heard, trailers) = exchange(b"", http::HeaderMap::new(), |reader, mut respond| async move {
        drop(reader);
        let stream = respond.send_response(http::Response::new(()), false).unwrap();
        let mut writer = Writer::new(stream, false, Body::Streamed);
        for piece in sent.chunks(50_000) {
            writer.data(piece).await.unwrap();
        }
        writer.end(None).await.unwrap();
    })
    .await;
    assert!(heard == body);
    assert!(trailers.is_none());
}
