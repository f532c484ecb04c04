//! What happens to tokens that are right, wrong, late, or shown by two at once.

use std::path::Path;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn fingerprint() -> Fingerprint {
    "ab".repeat(32).parse().unwrap()
}

fn alice(uses: u32) -> NewToken {
    NewToken {
        name: "alice".parse().unwrap(),
        expires: SystemTime::now() + HOUR,
        uses,
        relay: "127.0.0.1:4433".to_owned(),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("data")).unwrap()
}

#[tokio::test]
async fn a_token_made_by_another_process_lets_in_as_often_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (serving, creating) = (open(dir.path()), open(dir.path()));
    let token = creating.mint(fingerprint(), alice(2)).await.unwrap();
    let now = SystemTime::now();
    for _ in 0..2 {
        let (_, name) = serving.check(Some((token.id(), token.hash())), now).await.unwrap().unwrap();
        assert_eq!(name.as_str(), "alice");
        serving.spend(token.id(), now).await.unwrap().unwrap();
    }
    for store in [&serving, &creating] {
        assert_eq!(
            store.check(Some((token.id(), token.hash())), now).await.unwrap(),
            Err(TokenRefused::UsedUp)
        );
        assert_eq!(store.spend(token.id(), now).await.unwrap(), Err(TokenRefused::UsedUp));
    }
}

#[tokio::test]
async fn only_who_knows_the_secret_learns_what_is_wrong_with_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let token = store.mint(fingerprint(), alice(1)).await.unwrap();
    let other = store.mint(fingerprint(), alice(1)).await.unwrap();
    let unknown = JoinToken::mint(fingerprint(), "").unwrap();
    let late = SystemTime::now() + 2 * HOUR;
    for now in [SystemTime::now(), late] {
        for shown in [
            None,
            Some((token.id(), other.hash())),
            Some((unknown.id(), unknown.hash())),
            Some((unknown.id(), TokenHash::NONE)),
        ] {
            assert_eq!(store.check(shown, now).await.unwrap(), Err(TokenRefused::Unknown));
        }
    }
    assert_eq!(
        store.check(Some((token.id(), token.hash())), late).await.unwrap(),
        Err(TokenRefused::Expired)
    );
    assert_eq!(store.spend(token.id(), late).await.unwrap(), Err(TokenRefused::UsedUp));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_given_once_however_many_ask() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()), open(dir.path()), open(dir.path())];
    let token = stores[0].mint(fingerprint(), alice(1)).await.unwrap();
    let (id, now) = (token.id(), SystemTime::now());
    let mut asking = tokio::task::JoinSet::new();
    for at in 0..12 {
        let store = stores[at % stores.len()].clone();
        asking.spawn(async move { store.spend(id, now).await.unwrap().is_ok() });
    }
    let given = asking.join_all().await.into_iter().filter(|given| *given).count();
    assert_eq!(given, 1);
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let token = store.mint(fingerprint(), alice(1)).await.unwrap();
    // A copy of the files as they are is what a killed process leaves behind: nothing was closed.
    let after = tempfile::tempdir().unwrap();
    culvert_certs::private_file::directory(&after.path().join("data")).unwrap();
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), after.path().join("data").join(entry.file_name())).unwrap();
    }
    let now = SystemTime::now();
    assert!(open(after.path()).check(Some((token.id(), token.hash())), now).await.unwrap().is_ok());
}

#[tokio::test]
async fn no_secret_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let token = store.mint(fingerprint(), alice(1)).await.unwrap();
    let revealed = token.reveal();
    drop(store);
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for part in revealed.expose().as_bytes().chunks_exact(24) {
            assert!(!bytes.windows(part.len()).any(|window| window == part));
        }
    }
}

#[test]
fn a_damaged_or_newer_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(Store::open(&data).unwrap());
    let path = data.join("culvert.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&data).unwrap_err().to_string();
    assert!(
        error.contains("culvert.db: a newer culvert-relay made it (version 99, this one knows 1)"),
        "{error}"
    );

    std::fs::write(&path, "this is no database, but long enough that it could be one".repeat(40)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&data).unwrap_err().to_string();
    assert!(error.contains("culvert.db: it is damaged") && error.contains("restore it"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn the_store_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _open = Store::open(&data).unwrap();
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}
