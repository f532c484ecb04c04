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
    assert_eq!(config.services[0].manners, Manners::default());
    assert_eq!(config.services[0].tls, None);
    assert!(!config.services[0].all_traffic);
}

#[test]
fn a_door_is_transparent_until_it_is_told_whom_to_believe() {
    assert!(Manners::default().transparent);
    let manners = Manners { transparent: false, ..Manners::default() };
    assert!(manners.trusted_proxies.is_empty() && manners.proxy_protocol.is_empty());
    assert_eq!(manners.forwarded, Forwarded::XForwarded);
    assert_eq!(manners.host, Host::Preserve);
    assert_eq!(manners.route_field, RouteField::Matched);
    assert!(manners.via && !manners.public);
}

#[test]
fn every_key_does_what_it_says() {
    let config = parse(
        r#"
data: /var/lib/culvert
tunnel: {listen: "0.0.0.0:4433", names: [relay.example.com, 127.0.0.1], claims: 500}
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
    assert_eq!(config.tunnel.claims, 500);
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

#[test]
fn a_door_has_the_manners_that_it_is_told() {
    let with = |manners: &str| {
        let text =
            format!("services: [{{name: a, listen: '127.0.0.1:0', upstream: 'https://a', {manners}}}]");
        parse(&text).unwrap().services.remove(0).manners
    };
    let networks = |typed: &str| with(&format!("trusted_proxies: {typed}")).trusted_proxies;
    let shown = |typed: &str| networks(typed).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(shown("[]"), "");
    assert_eq!(
        shown("[10.0.0.0/8, fd00::/8, 192.168.1.1, '::1']"),
        "10.0.0.0/8 fd00::/8 192.168.1.1/32 ::1/128"
    );
    assert_eq!(shown("['0.0.0.0/0', '::/0']"), "0.0.0.0/0 ::/0");
    assert_eq!(shown("['::ffff:10.0.0.0/104', '::ffff:10.0.0.1']"), "10.0.0.0/8 10.0.0.1/32");
    assert_eq!(with("proxy_protocol: [10.0.0.0/8]").proxy_protocol, networks("[10.0.0.0/8]"));

    for (word, meant) in [
        ("x-forwarded", Forwarded::XForwarded),
        ("standard", Forwarded::Standard),
        ("both", Forwarded::Both),
        ("off", Forwarded::Off),
        ("'off'", Forwarded::Off),
    ] {
        assert_eq!(with(&format!("forwarded: {word}")).forwarded, meant);
    }
    for (word, meant) in
        [("matched", RouteField::Matched), ("always", RouteField::Always), ("never", RouteField::Never)]
    {
        assert_eq!(with(&format!("route_field: {word}")).route_field, meant);
    }
    assert_eq!(with("host: preserve").host, Host::Preserve);
    assert_eq!(with("host: upstream").host, Host::Upstream);
    assert!(!with("via: false").via && with("via: true").via);
    assert!(!with("trusted_proxies: []").transparent && !with("public: true").transparent);
    assert!(with("host: preserve").transparent);
    assert!(with("public: true").public && !with("public: false").public);
}

#[test]
fn an_upstream_over_tls_is_believed_by_whom_it_is_told() {
    let with = |more: &str| {
        let text = format!("services: [{{name: a, listen: '127.0.0.1:0', upstream: 'https://a.b'{more}}}]");
        match parse(&text).unwrap().services.remove(0).upstream {
            Upstream::Https { tls, .. } => (tls.trust, tls.name.to_str().into_owned()),
            other => panic!("{other}"),
        }
    };
    let told = |trust: UpstreamTrust, name: &str| (trust, name.to_owned());
    let beside = UpstreamTrust::File("conf/ca.pem".into());
    assert_eq!(with(""), told(UpstreamTrust::System, "a.b"));
    assert_eq!(with(", upstream_tls: {}"), told(UpstreamTrust::System, "a.b"));
    assert_eq!(with(", upstream_tls: {verify: true}"), told(UpstreamTrust::System, "a.b"));
    assert_eq!(with(", upstream_tls: {ca: ca.pem}"), told(beside.clone(), "a.b"));
    assert_eq!(with(", upstream_tls: {verify: true, ca: ca.pem}"), told(beside, "a.b"));
    assert_eq!(
        with(", upstream_tls: {ca: /etc/ca.pem}"),
        told(UpstreamTrust::File("/etc/ca.pem".into()), "a.b")
    );
    assert_eq!(with(", upstream_tls: {verify: false, name: c.d}"), told(UpstreamTrust::Nobody, "c.d"));
    assert_eq!(with(", upstream_tls: {name: '127.0.0.1'}"), told(UpstreamTrust::System, "127.0.0.1"));
}

#[test]
fn a_doors_certificate_and_key_lie_beside_the_file() {
    let text = "services: [{name: a, listen: '127.0.0.1:0', upstream: 'http://a', \
                tls: {certificate: tls/tls.crt, key: /run/tls.key}}]";
    let tls = parse(text).unwrap().services.remove(0).tls.unwrap();
    assert_eq!(tls, DoorTls { certificate: "conf/tls/tls.crt".into(), key: "/run/tls.key".into() });
}

/// Every YAML block in it is a file of its own.
#[test]
fn what_the_documentation_shows_is_valid_and_leaves_nothing_out() {
    let page = include_str!("../../../docs/configuration.md");
    let examples: Vec<_> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for example in &examples {
        parse(example).unwrap();
    }
    // What it shows is, but for the files, the networks and one limit, what holds without it.
    let whole = parse(examples[1]).unwrap();
    let shown = &whole.services[0];
    let own = Limits { response_head: Limits::default().response_head, ..shown.limits.clone() };
    assert_eq!(own, Limits::default());
    let manners = Manners {
        transparent: true,
        trusted_proxies: Vec::new(),
        proxy_protocol: Vec::new(),
        ..shown.manners.clone()
    };
    assert_eq!(manners, Manners::default());
    let unknown = parse("services: [{zzz: 1}]").unwrap_err();
    let (_, known) = unknown.split_once("known here: ").unwrap();
    for key in known.split(", ") {
        assert!(page.contains(&format!("| `{key}` |")), "{key} is not explained");
        assert!(examples[1].contains(&format!("{key}: ")), "{key} is not shown");
    }
}

/// Where the mistake is, is marked with `^` in each text; without a mark the whole file is meant.
#[test]
fn a_mistake_is_named_with_its_place_and_what_to_do() {
    let listen = "listen: '127.0.0.1:0'";
    let upstream = "upstream: 'http://127.0.0.1:9001'";
    let https = "upstream: 'https://a'";
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
        (one(&format!("{listen}, upstream: ^'h2c://a'")), "`h2c://a`: not an upstream: h2c has no port"),
        (
            one(&format!("{listen}, upstream: ^'h2c+unix:/a'")),
            "`h2c+unix:/a`: not an upstream: write http://",
        ),
        (one(&format!("{listen}, upstream: ^'https://a/b'")), "`https://a/b`: an upstream has no path"),
        (
            one(&format!("{listen}, {upstream}, upstream_tls: ^{{verify: false}}")),
            "`upstream_tls` is for an https upstream, and http://127.0.0.1:9001 is none",
        ),
        (
            one(&format!("{listen}, {https}, upstream_tls: {{verify: false, ca: ^ca.pem}}")),
            "a `ca` is never looked at with `verify: false`",
        ),
        (
            one(&format!("{listen}, {https}, upstream_tls: {{^verfy: false}}")),
            "unknown key `verfy` in services[0].upstream_tls; did you mean `verify`?",
        ),
        (
            one(&format!("{listen}, {https}, upstream_tls: {{verify: ^no way}}")),
            "expected true or false for services[0].upstream_tls.verify",
        ),
        (
            one(&format!("{listen}, {https}, upstream_tls: {{name: ^'a b'}}")),
            "`a b` is neither a host name nor an address",
        ),
        (
            one(&format!("{listen}, {https}, upstream_tls: {{ca: ^''}}")),
            "`` is not a file's path: write where the ca",
        ),
        (one(&format!("{listen}, {upstream}, tls: ^{{certificate: a}}")), "`key` is missing in tls"),
        (one(&format!("{listen}, {upstream}, tls: ^{{key: a}}")), "`certificate` is missing in tls"),
        (
            one(&format!("{listen}, {upstream}, tls: {{^cert: a}}")),
            "unknown key `cert` in services[0].tls; known here: certificate, key",
        ),
        (one(&format!("{listen}, {upstream}, tls: ^true")), "expected keys and values for services[0].tls"),
        (
            one(&format!("{listen}, {upstream}, forwarded: ^x-forward")),
            "`x-forward` is not known here: write one of x-forwarded, standard, both, off",
        ),
        (
            one(&format!("{listen}, {upstream}, host: ^Preserve")),
            "`Preserve` is not known here: write one of preserve, upstream",
        ),
        (
            one(&format!("{listen}, upstream: 'unix:/a', host: ^upstream")),
            "`host: upstream` needs an upstream with a host, and unix:/a has none",
        ),
        (
            one(&format!("{listen}, {upstream}, route_field: ^on")),
            "`on` is not known here: write one of matched, always, never",
        ),
        (one(&format!("{listen}, {upstream}, via: ^never")), "expected true or false for services[0].via"),
        (
            one(&format!("{listen}, {upstream}, public: ^1.5")),
            "expected true or false for services[0].public",
        ),
        (
            one(&format!("{listen}, {upstream}, trusted_proxies: [10.0.0.0/8, ^10.0.0.0/33]")),
            "`10.0.0.0/33` is not a network: write 10.0.0.0/8, fd00::/8 or one address",
        ),
        (
            one(&format!("{listen}, {upstream}, trusted_proxies: [^localhost]")),
            "`localhost` is not a network",
        ),
        (
            one(&format!("{listen}, {upstream}, trusted_proxies: ^10.0.0.0/8")),
            "expected a list for services[0].trusted_proxies",
        ),
        (
            one(&format!("{listen}, {upstream}, proxy_protocol: [^10.1.2.3/8]")),
            "`10.1.2.3/8` is an address in a network: write 10.0.0.0/8 or 10.1.2.3",
        ),
        (
            one(&format!("{listen}, {upstream}, proxy_protocol: ^true")),
            "expected a list for services[0].proxy_protocol",
        ),
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
        (with("tunnel: {claims: ^0}"), "`0` is not a number from 1 to 1000000"),
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
