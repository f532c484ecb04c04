//! What a person who mistypes a relay.yaml reads, and where it points them.

use std::path::Path;
use std::time::Duration;

use super::*;

const SMALLEST: &str =
    "services: [{name: orders, listen: '127.0.0.1:0', upstream: 'http://127.0.0.1:9001'}]\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("conf/relay.yaml")).map_err(|error| error.to_string())
}

#[test]
fn the_smallest_file_that_works_has_safe_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.data, Path::new("conf/culvert-data"));
    assert_eq!(config.tunnel.listen.to_string(), Tunnel::LISTEN);
    assert_eq!(config.tunnel.names, ["localhost", "127.0.0.1", "::1"]);
    assert!(config.admin.listen.ip().is_loopback());
    assert_eq!(config.drain.grace, Duration::from_secs(30));
    assert_eq!(config.services[0].limits, Limits::default());
    assert!(!config.services[0].all_traffic);
}

#[test]
fn every_key_does_what_it_says() {
    let config = parse(
        r#"
data: /var/lib/culvert
tunnel: {listen: "0.0.0.0:4433", names: [relay.example.com, 127.0.0.1]}
admin: {listen: "127.0.0.1:9090"}
limits: {connect: 500ms, connections: 50}
drain: {grace: 0s}
services:
  - {name: orders, listen: "0.0.0.0:8080", upstream: "http://127.0.0.1:9001", all_traffic: true}
  - name: carts
    listen: "[::1]:8081"
    upstream: unix:/run/carts.sock
    limits: {head_read: 1m, connections: 7}
"#,
    )
    .unwrap();
    assert_eq!(config.data, Path::new("/var/lib/culvert"));
    assert_eq!(config.tunnel.names, ["relay.example.com", "127.0.0.1"]);
    assert_eq!(config.drain.grace, Duration::ZERO);
    let [orders, carts] = &config.services[..] else { panic!("two services") };
    assert!(orders.all_traffic && !carts.all_traffic);
    assert_eq!(orders.limits.connections, 50);
    assert_eq!(carts.limits.connections, 7);
    assert_eq!(carts.limits.connect, Duration::from_millis(500));
    assert_eq!(carts.limits.head_read, Duration::from_secs(60));
    assert_eq!(carts.upstream, Upstream::Unix { path: "/run/carts.sock".into() });
    assert_eq!(config.service(&"carts".parse().unwrap()).unwrap().listen, carts.listen);
}

/// Where the mistake is, is marked with `^` in each text; without a mark the whole file is meant.
#[test]
fn a_mistake_is_named_with_its_place_and_what_to_do() {
    let listen = "listen: '127.0.0.1:0'";
    let upstream = "upstream: 'http://127.0.0.1:9001'";
    let one = |rest: &str| format!("services:\n  - {{name: orders, {rest}}}\n");
    let with = |more: &str| format!("{SMALLEST}{more}\n");
    let long = "x".repeat(300);
    for (marked, expected) in [
        (
            one(&format!("{listen}, ^upstrem: a")),
            "unknown key `upstrem` in services[0]; did you mean `upstream`?",
        ),
        (with("^sevices: []"), "unknown key `sevices`; did you mean `services`?"),
        (with("limits: {^conections: 4}"), "unknown key `conections` in limits; did you mean `connections`?"),
        (with("drain: {^zzz: 4}"), "unknown key `zzz` in drain; known here: grace"),
        (with("data: a\n^data: b"), "`data` stands twice: remove one"),
        (one(&format!("^name: a, {listen}, {upstream}")), "`name` stands twice in services[0]: remove one"),
        (format!("services:\n  - ^{{name: orders, {listen}}}"), "`upstream` is missing in services[0]"),
        ("data: x\n".to_owned(), "no services: name at least one"),
        (String::new(), "no services: name at least one"),
        ("# nothing\n".to_owned(), "no services: name at least one"),
        ("services: ^[]\n".to_owned(), "no services: name at least one"),
        ("services: ^3\n".to_owned(), "expected a list for services"),
        ("services: [^x]\n".to_owned(), "expected keys and values for services[0]"),
        ("^hello\n".to_owned(), "expected keys and values"),
        (with("---\n^services: []"), "a second document starts here"),
        ("services: ^[\n".to_owned(), "not YAML: "),
        (one(&format!("{listen}, upstream: ^[a]")), "expected a single value for services[0].upstream"),
        (
            one(&format!("{listen}, {upstream}, all_traffic: ^maybe")),
            "expected true or false for services[0].all_traffic",
        ),
        (one(&format!("listen: ^8080, {upstream}")), "`8080` is not an address to listen on: write an IP"),
        (
            one(&format!("listen: ^'localhost:80', {upstream}")),
            "`localhost:80` is not an address to listen on",
        ),
        (one(&format!("listen: ^'127.0.0.1:99999', {upstream}")), "`127.0.0.1:99999` is not an address"),
        (
            one(&format!("{listen}, upstream: ^'ftp://a'")),
            "`ftp://a`: not an upstream: write http://HOST:PORT",
        ),
        (one(&format!("{listen}, upstream: ^'https://a'")), "`https://a`: not supported yet"),
        (
            one(&format!("{listen}, upstream: ^'http://me:hunter2@a'")),
            "`http://…@a`: an upstream has no path",
        ),
        (
            format!("services:\n  - {{name: ^Orders, {listen}, {upstream}}}"),
            "`Orders` is not a service's name",
        ),
        (
            format!(
                "services:\n  - {{name: a, {listen}, {upstream}}}\n  - {{name: ^a, {listen}, {upstream}}}"
            ),
            "a service named `a` stands above",
        ),
        (
            format!(
                "services:\n  - {{name: a, listen: '0.0.0.0:80', {upstream}}}\n  - {{name: b, listen: ^'127.0.0.1:80', {upstream}}}"
            ),
            "service `b` would listen on 127.0.0.1:80, where service `a` listens already (0.0.0.0:80)",
        ),
        (
            one(&format!("listen: ^'127.0.0.1:9090', {upstream}")),
            "service `orders` would listen on 127.0.0.1:9090, where admin listens already",
        ),
        (with("tunnel: {names: [^'a b']}"), "`a b` is neither a host name nor an address"),
        (with("tunnel: {names: ^[]}"), "no names"),
        (with("tunnel: {listen: ^x}"), "`x` is not an address"),
        (with("drain: {grace: ^10}"), "`10` is not a time: write 500ms, 10s, 2m or 1h"),
        (with("drain: {grace: ^25h}"), "`25h` is not a time"),
        (with("limits: {connect: ^0s}"), "`0s` is not a time"),
        (with("limits: {connect: ^-1s}"), "`-1s` is not a time"),
        (with("limits: {connect: ^99999999999999999999s}"), "`99999999999999999999s` is not a time"),
        (with("limits: {connections: ^0}"), "`0` is not a number from 1 to 1000000"),
        (with("limits: {connections: ^+1}"), "`+1` is not a number"),
        (with(&format!("drain: {{grace: ^{long}}}")), "`xxxx"),
    ] {
        let place = marked.split_once('^').map_or(String::new(), |(before, _)| {
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            format!(":{}:{}", before.matches('\n').count() + 1, before.len() - line_start + 1)
        });
        let error = parse(&marked.replace('^', "")).unwrap_err();
        assert!(error.starts_with(&format!("conf/relay.yaml{place}: {expected}")), "\n{marked}\n{error}");
        assert!(!error.contains("hunter2") && !error.ends_with('.') && error.len() < 300, "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| Config::read(path).unwrap_err().to_string();
    assert!(read(dir.path()).contains("it is a directory: name the file in it"));
    let missing = read(&dir.path().join("relay.yaml"));
    assert!(
        missing.contains("No such file") && missing.ends_with("say where it is with -c FILE"),
        "{missing}"
    );
    let path = dir.path().join("binary");
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(read(&path).ends_with("not UTF-8 text, which YAML is"));
    fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(read(&path).contains("larger than 1 MiB"));
}
