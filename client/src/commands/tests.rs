//! What people type, right and wrong.

use clap::error::ErrorKind;

use culvert_certs::tls::Trust;

use super::*;
use crate::app::App;
use crate::session::Claim;

fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once(&"culvert").chain(line))
}

fn claim(line: &[&str]) -> Result<Claim, String> {
    let parsed = parse(line).map_err(|error| error.to_string())?;
    let Command::Intercept(arguments) = parsed.command else { panic!("{line:?}") };
    arguments.claim().map_err(|error| {
        let error = CommandError::from(error);
        assert_eq!(error.exit(), Exit::Usage);
        format!("{error} | {}", error.advice().unwrap_or_default())
    })
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory as _;
    Arguments::command().debug_assert();
}

#[test]
fn an_intercept_says_which_requests_go_where() {
    for (line, wanted) in [
        (vec!["orders", "9002", "-H", "x-user: alice"], "orders x-user=alice 127.0.0.1:9002"),
        (vec!["orders", "9002", "-H", "X-User:alice"], "orders x-user=alice 127.0.0.1:9002"),
        (vec!["orders", "9002", "x-user=alice"], "orders x-user=alice 127.0.0.1:9002"),
        (vec!["orders", "9002", "x-user: alice"], "orders x-user=alice 127.0.0.1:9002"),
        (vec!["orders:8080", "x-user=alice"], "orders x-user=alice 127.0.0.1:8080"),
        (vec!["orders:8080", "9002", "x-user=alice"], "orders x-user=alice 127.0.0.1:9002"),
        (vec!["orders", "app:3000", "x-user=alice"], "orders x-user=alice app:3000"),
        (vec!["orders", "[::1]:3000", "x-user=alice"], "orders x-user=alice [::1]:3000"),
        (vec!["orders", "http://app:3000/", "x-user=alice"], "orders x-user=alice app:3000"),
        (vec!["orders", "unix:/run/a.sock", "x-user=alice"], "orders x-user=alice unix:/run/a.sock"),
        (vec!["orders", "h2c://app:1", "x-user=alice"], "orders x-user=alice h2c://app:1"),
        (vec!["orders", "https://app", "x-user=alice"], "orders x-user=alice https://app:443"),
        (vec!["orders", "https://app:1", "a=b", "--app-insecure"], "orders a=b https://app:1"),
        (vec!["orders", "9002", "--all"], "orders all traffic 127.0.0.1:9002"),
        (vec!["-H", "x-user: a=b", "orders", "9002"], "orders x-user=a=b 127.0.0.1:9002"),
        (vec!["orders", "9002", "x-url=http://a:1"], "orders x-url=http://a:1 127.0.0.1:9002"),
        (
            vec![
                "orders",
                "9002",
                "b=2",
                "-H",
                "c: 3",
                "a=1",
                "a=1",
                "--mode",
                "steal",
                "--on-unreachable",
                "upstream",
            ],
            "orders a=1 b=2 c=3 127.0.0.1:9002",
        ),
    ] {
        let line: Vec<_> = std::iter::once("intercept").chain(line).collect();
        let claim = claim(&line).unwrap();
        let intercept = claim.intercept;
        assert_eq!(format!("{} {} {}", intercept.service, intercept.matcher, claim.app), wanted);
        assert_eq!(intercept.name.as_str(), format!("{}:{}", intercept.service, intercept.matcher));
    }
}

#[test]
fn callers_wait_a_moment_for_who_claims_some_requests_and_for_nobody_who_claims_all() {
    for (line, policy, ttl) in [
        (&["x-user=alice"][..], "hold:3s", None),
        (&["--all"], "upstream", None),
        (&["--all", "--on-unreachable", "hold:500ms", "--ttl", "90m"], "hold:500ms", Some("90m")),
        (&["x-user=alice", "--on-unreachable", "upstream", "--ttl", "48h"], "upstream", Some("2d")),
        (&["x-user=alice", "--on-unreachable", "503"], "503", None),
    ] {
        let intercept = claim(&[&["intercept", "orders", "9002"], line].concat()).unwrap().intercept;
        assert_eq!(intercept.on_unreachable.to_string(), policy, "{line:?}");
        assert_eq!(intercept.ttl.map(|ttl| ttl.to_string()).as_deref(), ttl, "{line:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_type() {
    for (line, said) in [
        (
            vec!["orders", "9002"],
            "which requests are yours? | culvert intercept orders 127.0.0.1:9002 -H 'x-user: me'",
        ),
        (
            vec!["orders"],
            "no app was named: which port does it listen on? | culvert intercept orders 8080 -H 'x-user: me'",
        ),
        (
            vec!["orders", "x-user=alice"],
            "which port does it listen on? | culvert intercept orders 8080 'x-user=alice'",
        ),
        (vec!["orders", "-H", "x-user: alice"], "culvert intercept orders 8080 -H 'x-user: alice'"),
        (vec!["orders", "9002", "--all", "x-user=alice"], "give one of the two"),
        (
            vec!["orders", "x-user=alice", "9002"],
            "`9002` looks like an app, and an app stands right after the service",
        ),
        (vec!["orders", "9002", "9003", "x-user=alice"], "`9003` looks like an app"),
        (vec!["orders", "99999", "x-user=alice"], "`99999` is not an app"),
        (vec!["orders", "https://localhost:1/base", "x-user=alice"], "write https://HOST:PORT"),
        (vec!["orders", "h2c://localhost", "x-user=alice"], "write h2c://HOST:PORT"),
        (vec!["orders", "ftp://localhost:1", "x-user=alice"], "is not"),
        (
            vec!["orders", "9002", "x-user=alice", "--app-insecure"],
            "--app-insecure is for an app over https, and 127.0.0.1:9002 is none",
        ),
        (
            vec!["orders", "https://a", "x-user=alice", "--app-ca", "/no/such/ca.pem"],
            "--app-ca: reading /no/such/ca.pem: No such file",
        ),
        (
            vec!["orders", "https://a", "x-user=alice", "--app-ca", "ca.pem", "--app-insecure"],
            "cannot be used with",
        ),
        (vec!["orders:http", "9002", "x-user=alice"], "`orders:http` is not a service with its port"),
        (vec!["orders:0", "x-user=alice"], "is not a service with its port"),
        (vec!["Orders", "9002", "x-user=alice"], "`Orders` is not a service's name"),
        (vec!["orders", "9002", "x-user"], "the presence of a header"),
        (vec!["orders", "9002", "!x-bot"], "the absence of a header"),
        (vec!["orders", "9002", "x-user=~^a"], "a pattern"),
        (vec!["orders", "9002", "x-user^=a"], "a prefix"),
        (vec!["orders", "9002", "=alice"], "is not a match"),
        (vec!["orders", "9002", "connection=close"], "concerns one connection only"),
        (vec!["orders", "9002", "-H", "x-user=alice"], "`x-user=alice` is not a header as -H takes it"),
        (vec!["orders", "9002", "-H", "x-user"], "is not a header as -H takes it"),
        (vec!["orders", "9002", "--path", "/x"], "a match on the path is not supported yet"),
        (
            vec!["orders", "9002", "--cookie", "a=b", "x-user=alice"],
            "a match on a cookie is not supported yet",
        ),
        (vec!["orders", "9002", "--or", "x-user=alice"], "--or is not supported yet"),
        (
            vec!["orders", "9002", "x-user=alice", "--mode", "mirror"],
            "--mode other than steal is not supported yet",
        ),
        (vec!["orders", "9002", "x-user=alice", "--", "npm", "start"], "after `--` is not supported yet"),
        (
            vec!["orders", "9002", "x-user=alice", "--on-unreachable", "sometimes"],
            "use upstream, hold:10s or 503",
        ),
        (vec!["orders", "9002", "x-user=alice", "--ttl", "31d"], "use 1s to 30d"),
        (vec!["orders", "9002", "x-user=alice", "--ttl", "0s"], "use 1s to 30d"),
        (vec!["orders", "9002", "x-user=alice", "--name", " "], "is not an intercept's name"),
        (
            vec!["orders", "9002", "x-user=alice", "--transport", "udp"],
            "possible values: auto, quic, tls, ws",
        ),
        (vec!["orders", "9002", "x-user=alice", "--relay", "not a relay"], "is not a relay's address"),
        (vec!["orders", "9002", "x-user=alice", "-q", "-v"], "cannot be used with"),
    ] {
        let typed: Vec<_> = std::iter::once("intercept").chain(line).collect();
        let error = claim(&typed).unwrap_err();
        assert!(error.contains(said), "{typed:?}: {error}");
    }
}

#[test]
fn an_app_over_https_is_believed_by_whom_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(&path, certificate.pem()).unwrap();
    let path = path.to_str().unwrap();
    for (options, believed) in [
        (vec![], Trust::System),
        (vec!["--app-ca", path], Trust::Authority(vec![certificate.der().clone()])),
        (vec!["--app-insecure"], Trust::Nobody),
    ] {
        let line = [vec!["intercept", "orders", "https://localhost:1", "x-user=alice"], options].concat();
        match claim(&line).unwrap().app {
            App::Https { trust, .. } => assert_eq!(trust, believed, "{line:?}"),
            other => panic!("{other}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_header_that_is_not_utf_8_can_be_matched() {
    use std::os::unix::ffi::OsStringExt as _;
    let line = ["culvert", "intercept", "orders", "9002"].map(OsString::from);
    let value = OsString::from_vec(b"x-name=caf\xe9".to_vec());
    let parsed = Arguments::try_parse_from(line.into_iter().chain([value])).unwrap();
    let Command::Intercept(arguments) = parsed.command else { panic!() };
    let claim = arguments.claim().unwrap();
    assert_eq!(claim.intercept.matcher.to_string(), "x-name=base64:Y2Fm6Q==");
}

#[test]
fn a_long_match_still_has_a_name_and_always_the_same() {
    let value = format!("x-user={}", "a".repeat(500));
    let one = claim(&["intercept", "orders", "1", &value]).unwrap().intercept.name;
    let again = claim(&["intercept", "orders", "2", &value]).unwrap().intercept.name;
    let other = claim(&["intercept", "orders", "1", &format!("{value}b")]).unwrap().intercept.name;
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!(one.as_str().starts_with("orders:x-user=aaa"), "{one}");
}

#[test]
fn a_token_is_never_an_argument() {
    let error = parse(&["login", "relay", "CULVERT1.abc"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownArgument);
    let error = parse(&["login", "relay", "--token", "CULVERT1.abc"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownArgument);
    assert!(parse(&["login", "relay", "--token-file", "-"]).is_ok());
    assert_eq!(TokenSource::from(OsString::from("-")), TokenSource::Stdin);
    assert_eq!(TokenSource::from(OsString::from("./-")), TokenSource::File("./-".into()));
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        ["-o", "json", "--relay", "relay:1", "--log-format", "json", "--no-color", "ls"],
        ["ls", "-o", "json", "--relay", "relay:1", "--log-format", "json", "--no-color"],
    ] {
        let global = parse(&line).unwrap().global;
        assert_eq!(global.relay[0].to_string(), "relay:1");
        assert_eq!(global.output, Output::Json);
        let look = global.look(true);
        assert_eq!(look, Look { quiet: false, colour: false, format: Format::Json });
    }
    assert!(parse(&["ls"]).unwrap().global.look(true).colour);
    assert!(!parse(&["ls"]).unwrap().global.look(false).colour);
    assert!(!parse(&["ls", "--no-color"]).unwrap().global.look(true).colour);
}

#[test]
fn an_exit_code_never_changes_its_meaning() {
    let codes = [
        (Exit::Done, 0),
        (Exit::Internal, 1),
        (Exit::Usage, 2),
        (Exit::Denied, 3),
        (Exit::Conflict, 4),
        (Exit::Unreachable, 5),
        (Exit::NoSuchService, 6),
    ];
    for (exit, code) in codes {
        assert_eq!(exit.code(), code);
    }
}

#[test]
fn a_token_that_lost_its_end_is_a_usage_error_that_says_so() {
    let error = CommandError::from("CULVERT1.abcd".parse::<culvert_certs::JoinToken>().unwrap_err());
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().contains("cut short"), "{error}");
    assert!(error.advice().unwrap().contains("culvert-relay token create"));
}
