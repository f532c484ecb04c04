//! Callers behind a load balancer that says who they are before the first byte (the PROXY protocol, versions 1 and 2).

use super::{Peer, Way, request, versions};
use culvert_loadtest::caller;
use h2::client;
use tokio::task::JoinSet;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
}

/// 2001:db8::9 port 4660 to ::1 port 80, in version 2.
fn sixth() -> Vec<u8> {
    let mut rest = vec![0x20, 0x01, 0x0d, 0xb8];
    rest.extend([0; 11]);
    rest.push(9);
    rest.extend([0; 15]);
    rest.push(1);
    rest.extend([0x12, 0x34, 0, 80]);
    second(1, 0x21, &rest)
}

const ADDRESSES: &[u8] = &[9, 9, 9, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_load_balancer_names_is_who_the_caller_is() {
    // With a checksum and an authority after the addresses.
    let extras = [ADDRESSES, &[0x03, 0, 4, 0, 0, 0, 0, 0x02, 0, 3, b'a', b'.', b'b']].concat();
    let headers: [(&str, Vec<u8>, &str, &str); 8] = [
        ("1, IPv4", b"PROXY TCP4 9.9.9.9 10.0.0.1 4660 80\r\n".to_vec(), "9.9.9.9", "for=9.9.9.9;"),
        (
            "1, IPv6",
            b"PROXY TCP6 2001:db8::9 ::1 4660 80\r\n".to_vec(),
            "2001:db8::9",
            "for=\"[2001:db8::9]\";",
        ),
        ("1, nobody", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "for=127.0.0.1;"),
        ("1, nobody, with addresses", b"PROXY UNKNOWN a b c d\r\n".to_vec(), "127.0.0.1", "for=127.0.0.1;"),
        ("2, IPv4", second(1, 0x11, ADDRESSES), "9.9.9.9", "for=9.9.9.9;"),
        ("2, IPv4 and more", second(1, 0x11, &extras), "9.9.9.9", "for=9.9.9.9;"),
        ("2, IPv6", sixth(), "2001:db8::9", "for=\"[2001:db8::9]\";"),
        // A health check of the load balancer's own.
        ("2, local", second(0, 0, &[]), "127.0.0.1", "for=127.0.0.1;"),
    ];
    let keys = "proxy_protocol: [127.0.0.1/32], trusted_proxies: [], forwarded: both";
    for way in Way::each_with(keys, "http").await {
        for (what, header, address, element) in &headers {
            let mut caller = way.caller().await;
            let asked = request("GET / HTTP/1.1", &["X-Forwarded-For: 6.6.6.6"]);
            caller.say([header, asked.as_bytes()].concat()).await;
            let mut behind = way.accepted().await;
            let head = behind.head().await.unwrap();
            let lines = [format!("\r\nx-forwarded-for: {address}\r\n"), format!("\r\nforwarded: {element}")];
            for line in lines {
                assert!(head.contains(&line), "{} {what} {line}: {head}", way.name);
            }
            assert!(!head.contains("6.6.6.6"), "{} {what}: {head}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_trusted_by_the_address_that_the_load_balancer_names() {
    for way in Way::each_with("proxy_protocol: [127.0.0.1], trusted_proxies: [9.0.0.0/8]", "http").await {
        for (named, told) in [("9.9.9.9", "6.6.6.6, 9.9.9.9"), ("8.8.8.8", "8.8.8.8")] {
            let mut caller = way.caller().await;
            caller.say(format!("PROXY TCP4 {named} 10.0.0.1 4660 80\r\n")).await;
            caller.say(request("GET / HTTP/1.1", &["X-Forwarded-For: 6.6.6.6"])).await;
            let head = way.accepted().await.head().await.unwrap();
            assert!(head.contains(&format!("\r\nx-forwarded-for: {told}\r\n")), "{}: {head}", way.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_caller_behind_a_load_balancer_is_named_too() {
    for way in Way::each_with("proxy_protocol: [127.0.0.1], trusted_proxies: []", "http").await {
        let mut caller = way.caller().await;
        caller.say(second(1, 0x11, ADDRESSES)).await;
        let (requests, connection) = client::handshake(caller.stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { _ = connection.await });
        let mut requests = requests.ready().await.unwrap();
        let (_response, _) = requests.send_request(versions::get("/"), true).unwrap();
        let head = way.accepted().await.head().await.unwrap();
        assert!(head.contains("\r\nx-forwarded-for: 9.9.9.9\r\n"), "{}: {head}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_otherwise_is_closed_without_a_word_and_reaches_nobody() {
    let asked = request("GET / HTTP/1.1", &[]);
    let after = |header: &[u8]| [header, asked.as_bytes()].concat();
    let garbage = [
        asked.as_bytes().to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xaa, 0xaa, 0xaa],
        after(b"PROXY TCP4 9.9.9.9 10.0.0.1 99999 80\r\n"),
        after(b"PROXY TCP4 9.9.9.9\r\n"),
        after(b"PROXY TCP4 localhost 10.0.0.1 1 80\r\n"),
        after(b"PROXY TCP6 9.9.9.9 10.0.0.1 1 80\r\n"),
        after(b"proxy TCP4 9.9.9.9 10.0.0.1 1 80\r\n"),
        after(b"PROXY TCP4 9.9.9.9 10.0.0.1 1 80\n"),
        [b"PROXY TCP4 ".as_slice(), &[b'9'; 4096]].concat(),
        // A command and a version that do not exist, addresses that are not there, more than anybody needs.
        after(&second(7, 0x11, ADDRESSES)),
        after(&[SIGNATURE, &[0x11, 0x11, 0, 12], ADDRESSES].concat()),
        after(&second(1, 0x11, &ADDRESSES[..4])),
        after(&second(1, 0x11, &[0; 60_000])),
    ];
    for way in Way::each_with("proxy_protocol: [127.0.0.1], trusted_proxies: []", "http").await {
        for bytes in &garbage {
            let mut caller = way.caller().await;
            caller.say(bytes).await;
            let said = caller.end().await.unwrap_or_default();
            assert_eq!(said, "", "{}: {}", way.name, bytes.escape_ascii());
        }
        let metrics = caller::get(way.world.addresses().admin, "/metrics", &[]).await.unwrap().text();
        let counted = metrics.lines().find(|line| line.contains("rejected") && line.contains("\"arrival\""));
        let count = counted.and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        assert_eq!(count, garbage.len().to_string(), "{}: {counted:?}", way.name);
        // The next one is served as if nothing had been, and is the first that comes through.
        let mut caller = way.caller().await;
        caller
            .say(format!("PROXY TCP4 9.9.9.9 10.0.0.1 1 80\r\n{}", request("GET /good HTTP/1.1", &[])))
            .await;
        let head = way.accepted().await.head().await.unwrap();
        assert!(head.starts_with("GET /good "), "{}: {head}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_header_is_not_waited_for_longer_than_a_head() {
    let second = second(1, 0x11, ADDRESSES);
    let keys = "proxy_protocol: [127.0.0.1], limits: {head_read: 300ms}";
    let way = Way::new("upstream", None, keys, "http").await.unwrap();
    for half in [&b""[..], b"PROXY", b"PROXY TCP4 9.9.9.9 10.0.0.1 4660 80\r", &second[..12], &second[..20]] {
        let mut caller = Peer::to(way.door()).await.unwrap();
        caller.say(half).await;
        assert!(caller.gone().await, "{}", half.escape_ascii());
    }
    // One that comes in two pieces is whole all the same.
    for at in [1, 12, 14, 27] {
        let mut caller = Peer::to(way.door()).await.unwrap();
        caller.say(&second[..at]).await;
        caller.say(&second[at..]).await;
        caller.say(request("GET / HTTP/1.1", &[])).await;
        way.accepted().await.head().await.unwrap();
    }
}
