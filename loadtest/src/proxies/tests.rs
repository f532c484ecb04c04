//! What a client meets at each kind of proxy, with an origin behind it. curl is asked too in `.ci/net`.

use super::*;
use crate::caller::Caller;
use crate::origin::Origin;

const ALICE: Manner = Manner::Knowing { user: "alice", password: "secret" };

/// `alice:secret`
const RIGHT: &str = "Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n";

async fn connect(proxy: &Proxy, target: &str, field: &str) -> (Caller, u16) {
    let mut caller = Caller::connect(proxy.address()).await.unwrap();
    let asking = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{field}\r\n");
    caller.send(asking).await.unwrap();
    let status = caller.bodiless_answer().await.unwrap().status();
    (caller, status)
}

#[tokio::test]
async fn connect_leads_on_who_is_known_and_nobody_else() {
    let origin = Origin::named("relay").await.unwrap();
    let target = origin.address().to_string();
    let proxy = Proxy::start(Speaks::Connect, ALICE).await.unwrap();
    assert_eq!(connect(&proxy, &target, "").await.1, 407);
    assert_eq!(connect(&proxy, &target, "Proxy-Authorization: Basic YWxpY2U6d3Jvbmc=\r\n").await.1, 407);
    let (mut caller, status) = connect(&proxy, &target, RIGHT).await;
    assert_eq!(status, 200);
    assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap().status(), 200);
    assert_eq!(proxy.asked(), [Asked::Unknown, Asked::Unknown, Asked::Led(target.clone())]);

    let proxy = Proxy::start(Speaks::Connect, Manner::Nobody).await.unwrap();
    assert_eq!(connect(&proxy, &target, RIGHT).await.1, 403);
    origin.stop().await;
    let proxy = Proxy::start(Speaks::Connect, Manner::Everybody).await.unwrap();
    assert_eq!(connect(&proxy, &target, "").await.1, 502);
    assert_eq!(proxy.asked(), [Asked::Unreachable(target)]);
}

/// What is said in turn, and what has to be answered.
async fn socks(proxy: &Proxy, turns: &[(&[u8], &[u8])]) -> TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    for (said, wanted) in turns {
        stream.write_all(said).await.unwrap();
        let mut answer = vec![0; wanted.len()];
        timeout(ASKS, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, wanted);
    }
    stream
}

#[tokio::test]
async fn socks5_looks_up_names_for_who_is_known() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let origin = Origin::named("relay").await.unwrap();
    let names = [("relay.test", origin.address().ip())];
    let proxy = Proxy::with_names(Speaks::Socks5, ALICE, &names).await.unwrap();
    socks(&proxy, &[(&[5, 1, 0], &[5, 0xff])]).await;
    socks(&proxy, &[(&[5, 2, 0, 2], &[5, 2]), (b"\x01\x05alice\x05wrong", &[1, 1])]).await;
    let asking = [b"\x05\x01\x00\x03\x0arelay.test".as_slice(), &origin.port().to_be_bytes()].concat();
    let turns: [(&[u8], &[u8]); 3] = [
        (&[5, 1, 2], &[5, 2]),
        (b"\x01\x05alice\x06secret", &[1, 0]),
        (&asking, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ];
    let mut stream = socks(&proxy, &turns).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    timeout(ASKS, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let led = Asked::Led(format!("relay.test:{}", origin.port()));
    assert_eq!(proxy.asked(), [Asked::Unknown, Asked::Unknown, led]);
}
