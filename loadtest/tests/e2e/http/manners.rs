//! What a proxy says of its caller and of itself, and what it leaves alone.

use super::{Peer, Way, plain, request};

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn who_the_caller_is_is_said_as_configured_and_cannot_be_forged() {
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: gopher",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "Culvert-Route: forged",
    ];
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "trusted_proxies: []",
            &[
                "x-forwarded-for: 127.0.0.1\r\n",
                "x-forwarded-proto: http\r\n",
                "x-forwarded-host: orders.example\r\n",
                "via: 1.1 culvert\r\n",
                "Host: orders.example\r\n",
            ],
            &["6.6.6.6", "gopher", "forged", "forwarded: for"],
        ),
        (
            "trusted_proxies: [127.0.0.0/8]",
            &[
                "x-forwarded-for: 6.6.6.6, 127.0.0.1\r\n",
                "X-Forwarded-Proto: gopher\r\n",
                "X-Real-IP: 6.6.6.6\r\n",
            ],
            &["forged"],
        ),
        ("forwarded: standard", &["forwarded: for="], &["6.6.6.6", "x-forwarded"]),
        ("forwarded: both", &["forwarded: for=", "x-forwarded-for: 127.0.0.1\r\n"], &["6.6.6.6"]),
        ("forwarded: off", &["via: 1.1 culvert\r\n"], &["6.6.6.6", "forwarded"]),
        ("via: false", &["x-forwarded-for: 127.0.0.1\r\n"], &["\r\nvia: 1.1"]),
    ];
    for (keys, said, never) in cases {
        for way in Way::each_with(keys, "http").await {
            let (_caller, _app, head) = way.opened(&request("GET / HTTP/1.1", &forged)).await;
            for line in said {
                assert!(head.contains(line), "{} {keys:?} {line:?}: {head}", way.name);
            }
            for bytes in never {
                assert!(!head.to_lowercase().contains(bytes), "{} {keys:?} {bytes:?}: {head}", way.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_added_and_nothing_taken_where_nobody_said_whom_to_believe() {
    let asked =
        request("GET / HTTP/1.1", &["X-Forwarded-For: 9.9.9.9", "Forwarded: for=9.9.9.9", "Via: 1.1 before"]);
    for way in Way::each().await {
        let (mut caller, mut app, head) = way.opened(&asked).await;
        let lines = head.split_inclusive("\r\n");
        let head: String = lines.filter(|line| !line.starts_with("culvert-via: ")).collect();
        assert_eq!(head, asked, "{}", way.name);
        app.say(EMPTY).await;
        let answer = caller.head().await.unwrap();
        assert!(!answer.contains("via"), "{}: {answer}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_asked_for_its_own_name_where_it_wants_to_be() {
    let way = Way::new("upstream", None, "host: upstream, trusted_proxies: []", "http").await.unwrap();
    let (_caller, _app, head) = way.opened(&request("GET / HTTP/1.1", &[])).await;
    let own = way.behind.local_addr().unwrap();
    assert!(
        head.contains(&format!("{own}\r\n")) && head.contains("x-forwarded-host: orders.example\r\n"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_says_which_way_it_came_where_somebody_claimed_the_request() {
    for way in Way::each().await {
        let (mut caller, mut app, _) = way.opened(&request("GET / HTTP/1.1", &[])).await;
        app.say("HTTP/1.1 200 OK\r\nCulvert-Route: forged\r\nContent-Length: 0\r\n\r\n").await;
        let head = caller.head().await.unwrap();
        let told = head.contains("culvert-route: tunnel; owner=alice; intercept=\"orders:x-user=alice\"\r\n");
        assert_eq!(told, way.name != "upstream", "{}: {head}", way.name);
        assert!(!head.contains("forged"), "{}: {head}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_app_sends_back_to_the_door_does_not_go_round() {
    for way in Way::each().await.into_iter().skip(1) {
        let (mut caller, mut app, head) = way.opened(&request("GET / HTTP/1.1", &[])).await;
        let mut again = way.caller().await;
        again.say(&head).await;
        let answer = again.head().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 508 "), "{}: {answer}", way.name);
        app.say(EMPTY).await;
        caller.head().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancers_word_for_the_caller_is_taken_where_it_is_required() {
    for way in Way::each_with("proxy_protocol: [127.0.0.1/32], trusted_proxies: []", "http").await {
        let asked = request("GET / HTTP/1.1", &[]);
        let (_caller, _app, head) =
            way.opened(&format!("PROXY TCP4 9.9.9.9 10.0.0.1 1234 80\r\n{asked}")).await;
        assert!(head.contains("x-forwarded-for: 9.9.9.9\r\n"), "{}: {head}", way.name);
        let mut without = Peer::to(way.door()).await.unwrap();
        without.say(&asked).await;
        assert!(without.gone().await, "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_legal_passes_as_it_is_and_what_concerns_one_connection_stays_on_it() {
    let fields = [
        "X-Empty: ",
        "x-A: 1",
        "X-a: 2",
        "traceparent: 00-1-2-01",
        "Range: bytes=0-1,5-",
        "Accept:a,,b",
        "Cookie: a=1",
        "Cookie: b=2",
        "Connection: keep-alive, x-hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "X-Last: \u{e9}\u{fe0f}",
    ];
    let hop = ["Connection:", "X-Hop:", "Keep-Alive:", "Proxy-Connection:"];
    for way in Way::each().await {
        for line in
            ["GET /a%2fb//c;d/../%7e?x=%zz&&y HTTP/1.1", "M-SEARCH /|^`{}\" HTTP/1.1", "GET /? HTTP/1.1"]
        {
            let (mut caller, mut app, head) = way.opened(&request(line, &fields)).await;
            let kept: Vec<_> =
                fields.into_iter().filter(|field| !hop.iter().any(|hop| field.starts_with(hop))).collect();
            assert_eq!(plain(&head).replace("Accept: a", "Accept:a"), request(line, &kept), "{}", way.name);
            let answer = "HTTP/1.1 299 \r\nSet-Cookie: b=1\r\nsEt-cOOkie: a=2\r\nX-Empty: \r\nContent-Length: 0\r\n\r\n";
            app.say(answer).await;
            assert_eq!(plain(&caller.head().await.unwrap()), answer, "{}", way.name);
        }
    }
}
