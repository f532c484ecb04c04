//! What must never be seen: a token's secret and a private key, in anything that is printed, logged, listed or exported.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use culvert_loadtest::caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::stack::{Stack, Where};

use crate::binaries;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_anywhere_but_in_its_own_file() {
    let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
    let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
    let (alice, mallory) = (stack.home("alice").unwrap(), stack.home("mallory").unwrap());
    let token = stack.token("alice", &[]).await.unwrap();
    let logged_in = stack.login(&alice, &token).await.unwrap();
    let used_up = stack.login(&mallory, &token).await.unwrap();
    let cut = stack.login(&mallory, &token[..40]).await.unwrap();
    let app = app.url();
    let client = stack.intercept(&alice, &["-vv", "orders", &app, "x-user=alice"]).await.unwrap();
    let answer =
        caller::get(stack.door, "/", &["x-user: alice", "Authorization: Bearer canary-7f1e"]).await.unwrap();
    assert_eq!(answer.status(), 200);
    client.line("GET /").await.unwrap();
    let metrics = caller::get(stack.admin, "/metrics", &[]).await.unwrap();
    let listed = stack.run(&alice, &["ls", "-o", "json"]).await.unwrap();
    let arguments = arguments_of_everybody();
    client.signal("INT").await.unwrap();
    let client = client.ended().await.unwrap();
    stack.relay.signal("TERM").await.unwrap();
    stack.relay.line("draining").await.unwrap();

    let keys: Vec<_> = files(stack.directory()).into_iter().filter(|path| holds_key(path)).collect();
    assert!(keys.len() >= 2, "the relay's and the developer's: {keys:?}");
    for path in &keys {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let mut secrets = vec![token.trim()[token.trim().len() - 60..].to_owned(), "canary-7f1e".to_owned()];
    // The middle of a token holds its secret too.
    secrets.push(token.trim()[60..100].to_owned());
    for path in &keys {
        let pem = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let body = pem.split("PRIVATE KEY-----").nth(1).unwrap().trim();
        secrets.push(body.lines().next().unwrap()[..40].to_owned());
    }
    let seen = [
        ("the login", logged_in.stdout + &logged_in.stderr),
        ("a refused login", used_up.stdout + &used_up.stderr),
        ("a login with half a token", cut.stdout + &cut.stderr),
        ("the client", client.stdout + &client.stderr),
        ("the relay", stack.relay.stdout() + &stack.relay.stderr()),
        ("the list", listed.stdout + &listed.stderr),
        ("the metrics", metrics.text()),
        ("the arguments of processes", arguments),
    ];
    for (place, text) in &seen {
        assert!(!text.is_empty(), "{place} said nothing, so that nothing was looked at");
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} shows a secret: {text}");
        }
        assert!(!text.contains("PRIVATE KEY"), "{place} shows a key: {text}");
    }
    // Used, it is kept as a hash only.
    for path in files(stack.directory()) {
        // The store's journal comes and goes while the relay runs.
        let Ok(bytes) = fs::read(&path) else { continue };
        let holds = bytes.windows(40).any(|window| window == secrets[2].as_bytes());
        assert!(!holds, "{} holds the token", path.display());
    }
}

fn holds_key(path: &Path) -> bool {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).contains("PRIVATE KEY-----")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// What `ps` shows to every user of the machine.
fn arguments_of_everybody() -> String {
    let mut all = String::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // Processes come and go meanwhile.
        all.push_str(&String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()));
        all.push('\n');
    }
    all
}
