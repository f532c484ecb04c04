//! The same exchange as a caller of HTTP/2 says and hears it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::legal::{self, Body, Cuts, Line};
use super::onward::{Fields, InHttp2, end_to_end};

/// A caller's connection, whose end bears any number of small pieces that nobody has taken yet. It ends with the set.
pub(in super::super) async fn patient(door: SocketAddr) -> (SendRequest<Bytes>, JoinSet<()>) {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(64 << 20);
    let stream = TcpStream::connect(door).await.unwrap();
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { _ = connection.await });
    (requests.ready().await.unwrap(), driver)
}

/// None: what says HTTP/2 here has no way to say it.
pub(super) fn head(said: &legal::Request) -> Option<Request<()>> {
    let uri = Uri::builder().scheme("http").authority(said.host?).path_and_query(&said.target[..]);
    let mut request = Request::builder().method(&said.method[..]).uri(uri.build().ok()?);
    let mut lines = end_to_end(&said.lines);
    lines.retain(|(name, _)| name != "Host");
    *request.headers_mut()? = header_map(&lines);
    if said.takes_trailers() {
        request = request.header("te", "trailers");
    }
    request.body(()).ok()
}

/// Asks, and hears every answer, the informational ones first.
pub(super) async fn ask(
    requests: &mut SendRequest<Bytes>,
    head: Request<()>,
    body: &Body,
    cuts: &Cuts,
) -> Result<Vec<InHttp2>, h2::Error> {
    let data = body.data();
    let ends = data.is_empty() && !matches!(body, Body::Chunks(..));
    let (mut response, mut upload) = requests.send_request(head, ends)?;
    let mut at = 0;
    for cut in cuts.of(data.len()).into_iter().take(8).chain([data.len()]).filter(|_| !ends) {
        upload.send_data(Bytes::copy_from_slice(&data[at..cut]), false)?;
        at = cut;
    }
    match body.trailers() {
        _ if ends => {}
        [] => upload.send_data(Bytes::new(), true)?,
        lines => upload.send_trailers(header_map(lines))?,
    }

    let mut answers = Vec::new();
    let answer = loop {
        // The final one is asked for once it is there: whoever asks before loses the informational ones that come meanwhile.
        let next = poll_fn(|cx| match ready!(response.poll_informational(cx)) {
            Some(informed) => Poll::Ready(informed.map(Err)),
            None => Pin::new(&mut response).poll(cx).map_ok(Ok),
        });
        match next.await? {
            Err(informed) => answers.push(heard(&informed, Vec::new(), &HeaderMap::new())),
            Ok(answer) => break answer,
        }
    };
    let (parts, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    answers.push(heard(&Response::from_parts(parts, ()), body, &trailers));
    Ok(answers)
}

fn heard(response: &Response<()>, body: Vec<u8>, trailers: &HeaderMap) -> InHttp2 {
    let mut fields = by_name(response.headers());
    fields.remove("culvert-route");
    (vec![response.status().as_str().to_owned()], fields, body, by_name(trailers))
}

fn by_name(headers: &HeaderMap) -> Fields {
    let values = |name| headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect();
    headers.keys().map(|name| (name.as_str().to_owned(), values(name))).collect()
}

fn header_map(lines: &[Line]) -> HeaderMap {
    let parsed = |(name, value): &Line| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().map(parsed) {
        headers.append(name, value);
    }
    headers
}
