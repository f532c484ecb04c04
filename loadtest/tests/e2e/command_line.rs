//! The two programs as somebody types them: what they print, where, and how they end.

use std::fs;
use std::time::Duration;

use culvert_loadtest::caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::process::{Ended, Process};
use culvert_loadtest::stack::{Stack, Where, relay_yaml};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::binaries;

#[tokio::test(flavor = "multi_thread")]
async fn the_two_commands_of_the_readme_work_on_each_transport() {
    for transport in ["auto", "quic", "tls"] {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let alice = stack.developer("alice").await.unwrap();
        let port = app.port().to_string();
        let arguments = ["--transport", transport, "orders", &port, "-H", "x-user: alice"];
        let client = stack.intercept(&alice, &arguments).await.unwrap();
        let over = if transport == "tls" { "over tls" } else { "over quic" };
        client.line(over).await.unwrap();
        for (fields, wanted) in [(&["x-user: alice"][..], "app"), (&[], "upstream")] {
            let answer = caller::get(stack.door, "/a?secret=1", fields).await.unwrap();
            assert_eq!(answer.text(), format!("{wanted} GET /a?secret=1 HTTP/1.1\n"));
        }
        // One line per request of ours, and none of the others'.
        let line = client.line("GET /a").await.unwrap();
        assert!(line.contains(" 200 ") && line.contains(&port) && !line.contains("secret"), "{line}");
        client.signal("INT").await.unwrap();
        let ended = client.ended().await.unwrap();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("GET /a").count(), 1, "{}", ended.stderr);
        let answer = caller::get(stack.door, "/", &["x-user: alice"]).await.unwrap();
        assert_eq!(answer.text(), "upstream GET / HTTP/1.1\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_tells_programs_the_same_as_people() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let alice = stack.developer("alice").await.unwrap();
    let bob = stack.developer("bob").await.unwrap();
    let client = stack.intercept(&alice, &["orders", &app.url(), "x-user=alice"]).await.unwrap();

    let table = stack.run(&bob, &["ls"]).await.unwrap();
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let lines: Vec<_> = table.stdout.lines().collect();
    assert!(
        lines[0].starts_with("SERVICE") && lines[1].starts_with("orders   x-user=alice  alice"),
        "{lines:?}"
    );

    let json = stack.run(&bob, &["ls", "-o", "json"]).await.unwrap();
    assert_eq!((json.code, json.stderr.as_str()), (Some(0), ""));
    let data: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(data["identity"], "bob");
    assert_eq!(data["services"][0]["name"], "orders");
    assert_eq!(data["services"][0]["listen"][0], stack.door.to_string());
    let claimed = &data["intercepts"][0];
    for (key, value) in [
        ("service", "orders"),
        ("name", "orders:x-user=alice"),
        ("match", "x-user=alice"),
        ("mode", "steal"),
        ("on_unreachable", "hold:3s"),
        ("owner", "alice"),
    ] {
        assert_eq!(claimed[key], value, "{key}");
    }
    assert!(
        claimed["since_ms"].as_u64() > Some(1_600_000_000_000) && claimed["generation"] == 1,
        "{claimed}"
    );

    let yaml = stack.run(&bob, &["ls", "-o", "yaml"]).await.unwrap();
    assert!(yaml.stdout.contains("identity: bob"), "{}", yaml.stdout);
    client.signal("TERM").await.unwrap();
    assert_eq!(client.ended().await.unwrap().code, Some(0));
    // The answer to leaving is that nothing of it is left.
    let after = stack.run(&bob, &["ls", "-o", "json"]).await.unwrap();
    let data: serde_json::Value = serde_json::from_str(&after.stdout).unwrap();
    assert_eq!(data["intercepts"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_work_says_why_and_exits_with_its_code() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let alice = stack.developer("alice").await.unwrap();
    let bob = stack.developer("bob").await.unwrap();
    let nobody = stack.home("nobody").unwrap();
    let app = app.url();
    let first = stack.intercept(&alice, &["orders", &app, "x-user=alice"]).await.unwrap();

    for (home, line, code, said) in [
        (&alice, vec!["intercept", "orders", &app], 2, "no match was given"),
        (&alice, vec!["intercept", "orders", &app, "--frobnicate"], 2, "--frobnicate"),
        (
            &alice,
            vec!["intercept", "orders", &app, "x-user=alice", "--cookie", "a=b"],
            2,
            "not supported yet",
        ),
        (&alice, vec!["intercept", "order", &app, "x-user=alice"], 6, "orders"),
        (&alice, vec!["intercept", "orders", &app, "--all"], 3, "all"),
        (&bob, vec!["intercept", "orders", &app, "x-user=alice"], 4, "alice on "),
        (&nobody, vec!["ls"], 2, "culvert login"),
        (&nobody, vec!["login", "127.0.0.1:1"], 2, "--token-file"),
        (&nobody, vec!["login", "127.0.0.1:1", "--token-file", "/nonexistent"], 2, "/nonexistent"),
        (&bob, vec!["--relay", "127.0.0.1:1", "ls"], 2, "culvert login 127.0.0.1:1"),
    ] {
        let ended = stack.run(home, &line).await.unwrap();
        assert_eq!(ended.code, Some(code), "{line:?}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(said), "{line:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{line:?}");
    }

    // One's own newer session takes over, and the older one says so.
    let second = stack.intercept(&alice, &["orders", &app, "x-user=alice"]).await.unwrap();
    let ended = first.ended().await.unwrap();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    drop(second);
    let version = stack.run(&nobody, &["--version"]).await.unwrap();
    assert_eq!((version.code, version.stdout.starts_with("culvert ")), (Some(0), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_a_ttl_shows_when_it_ends_and_then_says_that_its_time_is_over() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let alice = stack.developer("alice").await.unwrap();
    let app = app.url();
    let long = stack.intercept(&alice, &["orders", &app, "x-user=alice", "--ttl", "2h"]).await.unwrap();
    // All of what is left, or a moment less.
    let left = "in 1h";
    let ls = stack.run(&alice, &["ls"]).await.unwrap();
    let lines: Vec<_> = ls.stdout.lines().collect();
    assert!(lines[0].ends_with("ENDS") && lines[1].ends_with(left), "{lines:?}");
    let status = stack.run(&alice, &["status"]).await.unwrap();
    assert!(status.stdout.contains(&format!(", in force, ends {left}\n")), "{}", status.stdout);
    let ends = async |command: &str, path: &str| {
        let json = stack.run(&alice, &[command, "-o", "json"]).await.unwrap().stdout;
        serde_json::from_str::<serde_json::Value>(&json).unwrap().pointer(path).unwrap().as_u64().unwrap()
    };
    let listed = ends("ls", "/intercepts/0/expires_ms").await;
    assert_eq!(ends("status", "/clients/0/claims/0/expires_ms").await, listed);
    drop(long);

    let short = stack.intercept(&alice, &["orders", &app, "x-user=bob", "--ttl", "2s"]).await.unwrap();
    let ended = short.ended().await.unwrap();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let said = "the claim of orders with x-user=bob has ended: its time (--ttl 2s) is over";
    assert!(ended.stderr.contains(said) && !ended.stderr.contains("denied"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_there_is_exit_5() {
    let upstream = Origin::named("upstream").await.unwrap();
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let alice = stack.developer("alice").await.unwrap();
    let bob = stack.home("bob").unwrap();
    let token = stack.token("bob", &[]).await.unwrap();
    stack.relay.signal("KILL").await.unwrap();
    for ended in [stack.run(&alice, &["ls"]).await.unwrap(), stack.login(&bob, &token).await.unwrap()] {
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        assert!(ended.stderr.contains(&stack.tunnel.to_string()), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_once_in_time_and_only_whole() {
    let upstream = Origin::named("upstream").await.unwrap();
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let home = stack.home("alice").unwrap();
    let login = async |token: &str| stack.login(&home, token).await.unwrap();
    let refused = |ended: Ended, code: i32, said: &str| {
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    };

    let good = stack.token("alice", &[]).await.unwrap();
    assert_eq!(good.lines().count(), 1, "the token alone");
    refused(login(&good[..good.len() / 2]).await, 2, "token");
    refused(login("").await, 2, "token");
    refused(login("not a token").await, 2, "token");
    assert_eq!(login(&good).await.code, Some(0));
    refused(login(&good).await, 3, "used up");

    let two = stack.token("alice", &["--uses", "2"]).await.unwrap();
    assert_eq!((login(&two).await.code, login(&two).await.code), (Some(0), Some(0)));
    refused(login(&two).await, 3, "used up");

    let short = stack.token("alice", &["--ttl", "1s"]).await.unwrap();
    // The relay counts whole seconds.
    let made = Instant::now();
    while made.elapsed() < Duration::from_millis(2100) {
        sleep(Duration::from_millis(100)).await;
    }
    refused(login(&short).await, 3, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_did_not_make_the_token_never_sees_it() {
    let upstream = Origin::named("upstream").await.unwrap();
    let ours = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let theirs = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let token = ours.token("alice", &[]).await.unwrap();
    let ended = theirs.login(&theirs.home("alice").unwrap(), &token).await.unwrap();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("this is not the relay that made the token"), "{}", ended.stderr);
    // It is as good as it was.
    assert_eq!(ours.login(&ours.home("alice").unwrap(), &token).await.unwrap().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_is_found_before_any_port_is_bound() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("relay.yaml");
    let service = "services:\n  - {name: orders, listen: \"127.0.0.1:0\", upstrem: \"http://127.0.0.1:1\"}\n";
    fs::write(&file, relay_yaml("127.0.0.1:0", "127.0.0.1:0", service)).unwrap();
    for command in ["serve", "check"] {
        let ended = relay(command, &file).await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        let wanted = "relay.yaml:5:43: unknown key `upstrem` in services[0]; did you mean `upstream`?";
        assert!(ended.stderr.contains(wanted), "{}", ended.stderr);
        assert!(!ended.stderr.contains("listening"), "{}", ended.stderr);
    }
    assert!(!directory.path().join("data").exists(), "and nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let any = "127.0.0.1:0";
    for (tunnel, admin, door, what) in [
        (any, any, address.as_str(), "service `orders`"),
        (any, address.as_str(), any, "the admin port"),
        (address.as_str(), any, any, "tunnels"),
    ] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("relay.yaml");
        let service = format!(
            "services:\n  - {{name: orders, listen: \"{door}\", upstream: \"http://127.0.0.1:1\"}}\n"
        );
        fs::write(&file, relay_yaml(tunnel, admin, &service)).unwrap();
        let ended = relay("serve", &file).await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        for said in [what, &address, "another process listens there"] {
            assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_both_ways_and_ends() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-loadtest"));
    command.args(["demo", "--once"]);
    let ended = Process::start("the demo", command).unwrap().ended().await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for shown in [
        "alice's app GET /orders/1",
        "the upstream GET /orders/1",
        "curl -H 'x-user: alice' http://127.0.0.1:",
    ] {
        assert!(ended.stdout.contains(shown), "{shown}: {}", ended.stdout);
    }
    assert_eq!(ended.stdout.matches(" 200 ").count(), 5, "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_takes_ones_own_servers_and_stays_until_it_is_interrupted() {
    let (upstream, app) = (Origin::named("mine").await.unwrap(), Origin::named("local").await.unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-loadtest"));
    command.args(["demo", "--upstream", &upstream.url(), "--app", &app.url()]);
    let demo = Process::start("the demo", command).unwrap();
    demo.line("up until Ctrl-C").await.unwrap();
    assert_eq!((upstream.count(), app.count()), (3, 2));
    demo.signal("INT").await.unwrap();
    let ended = demo.ended().await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

async fn relay(command: &str, file: &std::path::Path) -> Ended {
    let mut relay = Command::new(&binaries().await.relay);
    relay.args([command, "-c"]).arg(file);
    Process::start("culvert-relay", relay).unwrap().ended().await.unwrap()
}
