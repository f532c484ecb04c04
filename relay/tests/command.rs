//! What `culvert-relay` says and how it ends when the files that a relay.yaml names are not as they should be.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const RELAY: &str = env!("CARGO_BIN_EXE_culvert-relay");

/// `culvert-relay COMMAND` on a service with these keys, on a machine that trusts no certificate authority.
fn run(command: &str, dir: &Path, service: &str) -> (i32, String) {
    let path = dir.join("relay.yaml");
    let text = format!(
        "tunnel: {{listen: '127.0.0.1:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\n\
         services: [{{name: orders, listen: '127.0.0.1:0', {service}}}]\n"
    );
    fs::write(&path, text).expect("a place to write to");
    let Output { status, stderr, .. } = Command::new(RELAY)
        .args([command, "-c"])
        .arg(&path)
        .env("SSL_CERT_FILE", dir.join("no-such-bundle"))
        .env_remove("SSL_CERT_DIR")
        .env_remove("CULVERT_LOG")
        .output()
        .expect("the relay runs");
    (status.code().expect("it ends by itself"), String::from_utf8(stderr).expect("text"))
}

#[test]
fn a_machine_without_authorities_is_told_what_an_https_upstream_needs() {
    let dir = tempfile::tempdir().expect("a directory");
    for command in ["check", "serve"] {
        let (code, said) = run(command, dir.path(), "upstream: 'https://orders'");
        assert_eq!(code, 2, "{said}");
        let wanted = "culvert-relay: service `orders`: upstream_tls: this system trusts no certificate authority at all";
        assert!(said.starts_with(wanted), "{said}");
        assert!(said.contains("ca-certificates") && said.contains("no-such-bundle"), "{said}");
    }
    assert!(!dir.path().join("culvert-data").exists(), "nothing was begun");
}

#[test]
fn verification_that_is_off_is_told_at_each_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = "upstream: 'https://orders', upstream_tls: {verify: false}";
    let (code, said) = run("check", dir.path(), service);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("WARN") && said.contains("https://orders:443 is not verified"), "{said}");
    assert!(said.ends_with(": valid, services: 1\n"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_in_the_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = "upstream: 'http://orders', tls: {certificate: tls.crt, key: tls.key}";
    for command in ["check", "serve"] {
        let (code, said) = run(command, dir.path(), service);
        assert_eq!(code, 2, "{said}");
        let path = dir.path().join("tls.crt");
        let wanted = format!(
            "culvert-relay: service `orders`: tls.certificate: reading {}: No such file",
            path.display()
        );
        assert!(said.starts_with(&wanted), "{said}");
    }
}
