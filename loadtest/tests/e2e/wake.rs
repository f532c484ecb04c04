//! A developer's machine that stands still for longer than a tunnel lives, and goes on.

use std::time::Duration;

use culvert_loadtest::caller::Caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::stack::{Stack, Where};
use culvert_protocol::tunnel::IDLE_LIMIT;
use tokio::time::{Instant, sleep, timeout};

use crate::binaries;

/// The relay gives its tunnel up meanwhile.
const STOPPED: Duration = IDLE_LIMIT.saturating_add(Duration::from_secs(3));

/// For what should take a second, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_the_upstream_while_a_laptop_sleeps_and_the_developer_once_it_wakes() {
    tokio::join!(wakes("quic"), wakes("tls"), wakes("ws"));
}

#[expect(clippy::print_stderr, reason = "a figure, for whoever asks for it")]
async fn wakes(transport: &str) {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let app_url = app.url();
    let policy = ["--transport", transport, "--on-unreachable", "upstream"];
    let claim = ["orders", &app_url, "x-user=alice"];
    let client = stack.intercept(&home, &[&policy[..], &claim].concat()).await.unwrap();
    let mut caller = Caller::connect(stack.door).await.unwrap();
    assert_eq!(post(&mut caller).await, "app POST / HTTP/1.1\n", "{transport}");

    client.signal("STOP").await.unwrap();
    let stopped = Instant::now();
    while stopped.elapsed() < STOPPED {
        assert_eq!(post(&mut caller).await, "upstream POST / HTTP/1.1\n", "{transport}");
        sleep(Duration::from_millis(200)).await;
    }
    client.signal("CONT").await.unwrap();
    let woken = Instant::now();
    let waking = async {
        while post(&mut caller).await != "app POST / HTTP/1.1\n" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waking).await.unwrap_or_else(|_| panic!("{transport}: {}", client.stderr()));
    eprintln!(
        "over {transport}, the app answered {:?} after the end of a stop of {STOPPED:?}",
        woken.elapsed()
    );
    // Each of them once.
    assert_eq!(app.count(), 2, "{transport}");
}

/// The lid of one machine is closed, the work goes on at another, and the lid is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_wakes_takes_nothing_back_from_the_desktop_that_has_taken_over() {
    let upstream = Origin::named("upstream").await.unwrap();
    let (laptops, desktops) =
        (Origin::named("laptop").await.unwrap(), Origin::named("desktop").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.developer("alice").await.unwrap();
    let laptop = stack.intercept(&home, &["orders", &laptops.url(), "x-user=alice"]).await.unwrap();
    let mut caller = Caller::connect(stack.door).await.unwrap();
    assert_eq!(post(&mut caller).await, "laptop POST / HTTP/1.1\n");
    laptop.signal("STOP").await.unwrap();
    sleep(STOPPED).await;
    let desktop = stack.intercept(&home, &["orders", &desktops.url(), "x-user=alice"]).await.unwrap();
    assert_eq!(post(&mut caller).await, "desktop POST / HTTP/1.1\n");
    laptop.signal("CONT").await.unwrap();
    let ended = laptop.ended().await.unwrap();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("taken over by a newer session of yours"), "{}", ended.stderr);
    assert_eq!(post(&mut caller).await, "desktop POST / HTTP/1.1\n");
    drop(desktop);
}

/// What may not be asked for twice.
async fn post(caller: &mut Caller) -> String {
    let request = "POST / HTTP/1.1\r\nHost: orders.example\r\nx-user: alice\r\nContent-Length: 4\r\n\r\nonce";
    let answer = caller.exchange(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text()
}
