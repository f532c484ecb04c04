//! The relay's authority on disk: made once, opened ever after, never silently made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_certs::{Authority, AuthorityError, Fingerprint, find_authority};
use x509_parser::parse_x509_certificate;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn open(dir: &Path) -> Result<Authority, AuthorityError> {
    Authority::open_or_create(dir, now())
}

fn data(root: &tempfile::TempDir) -> PathBuf {
    root.path().join("culvert-data")
}

#[test]
fn the_authority_is_the_same_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let first = open(&data(&root)).unwrap();
    let second = open(&data(&root)).unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.id(), second.id());
    assert_eq!(first.certificate(), second.certificate());
    assert_eq!(first.not_after(), now() + 10 * YEAR);
    assert_eq!(second.not_after(), now() + 10 * YEAR);
}

#[test]
fn the_certificate_is_a_self_signed_authority_that_signs_only_leaves() {
    let root = tempfile::tempdir().unwrap();
    let authority = open(&data(&root)).unwrap();
    let (_, certificate) = parse_x509_certificate(authority.certificate()).unwrap();
    certificate.verify_signature(None).unwrap();
    assert_eq!(certificate.subject().to_string(), format!("CN=culvert relay authority {}", authority.id()));
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert!(certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(authority.fingerprint(), Fingerprint::of(authority.certificate()));
    let presented = [authority.certificate().clone()];
    assert_eq!(find_authority(&presented, &authority.fingerprint()), presented.first());
}

#[test]
fn relays_that_start_at_once_end_with_one_authority() {
    let root = tempfile::tempdir().unwrap();
    let dir = data(&root);
    let fingerprints = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..16).map(|_| scope.spawn(|| open(&dir).unwrap().fingerprint())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(fingerprints.windows(2).all(|pair| pair[0] == pair[1]), "{fingerprints:?}");
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["authority.key", "authority.lock", "authority.pem"]);
}

#[cfg(unix)]
#[test]
fn the_key_is_its_owners_alone_or_the_relay_does_not_start() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = data(&root);
    open(&dir).unwrap();
    let key = dir.join("authority.key");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&key)), (0o700, 0o600));

    for (path, wide, command) in
        [(&key, 0o644, "chmod 600"), (&key, 0o660, "chmod 600"), (&dir, 0o755, "chmod 700")]
    {
        let before = mode(path);
        fs::set_permissions(path, fs::Permissions::from_mode(wide)).unwrap();
        let error = open(&dir).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run `{command} {}`", path.display())), "{error}");
        fs::set_permissions(path, fs::Permissions::from_mode(before)).unwrap();
    }
    open(&dir).unwrap();
}

#[cfg(unix)]
#[test]
fn an_authority_on_a_read_only_mount_opens() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = data(&root);
    open(&dir).unwrap();
    fs::remove_file(dir.join("authority.lock")).unwrap();
    fs::set_permissions(dir.join("authority.key"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    let opened = open(&dir).map(|authority| authority.fingerprint());
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    opened.unwrap();
    assert!(!dir.join("authority.lock").exists());
}

#[test]
fn half_an_authority_is_reported_and_not_made_whole() {
    for (kept, lost) in [("authority.key", "authority.pem"), ("authority.pem", "authority.key")] {
        let root = tempfile::tempdir().unwrap();
        let dir = data(&root);
        open(&dir).unwrap();
        let before = fs::read(dir.join(kept)).unwrap();
        fs::remove_file(dir.join(lost)).unwrap();
        let error = open(&dir).unwrap_err().to_string();
        let (kept_path, lost_path) = (dir.join(kept), dir.join(lost));
        assert!(error.contains(&format!(
            "{} is there but {} is not",
            kept_path.display(),
            lost_path.display()
        )));
        assert!(!lost_path.exists());
        assert_eq!(fs::read(kept_path).unwrap(), before);
    }
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    for name in ["authority.key", "authority.pem"] {
        let root = tempfile::tempdir().unwrap();
        let dir = data(&root);
        open(&dir).unwrap();
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        for damaged in [b"".as_slice(), &whole[..whole.len() / 2], b"\xff\x00garbage", &vec![b'x'; 1 << 20]] {
            fs::write(&path, damaged).unwrap();
            let error = open(&dir).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}

#[test]
fn a_key_of_another_authority_is_noticed_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    open(&one).unwrap();
    open(&two).unwrap();
    fs::copy(one.join("authority.key"), two.join("authority.key")).unwrap();
    let error = open(&two).unwrap_err().to_string();
    assert!(
        error.contains("authority.pem does not hold the certificate that belongs to authority.key"),
        "{error}"
    );
}

#[test]
fn some_other_certificate_in_its_place_is_noticed_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let dir = data(&root);
    open(&dir).unwrap();
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(dir.join("authority.key")).unwrap()).unwrap();
    let other =
        rcgen::CertificateParams::new(vec!["example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(dir.join("authority.pem"), other.pem()).unwrap();
    let error = open(&dir).unwrap_err().to_string();
    assert!(error.contains("does not hold the certificate of a culvert relay authority"), "{error}");
}

#[test]
fn nothing_of_the_key_can_be_printed() {
    let root = tempfile::tempdir().unwrap();
    let dir = data(&root);
    let authority = open(&dir).unwrap();
    let shown = format!("{authority:?} {authority:#?}");
    let key = fs::read_to_string(dir.join("authority.key")).unwrap();
    for line in key.lines() {
        assert!(!shown.contains(line), "{shown}");
    }
    assert!(shown.contains(authority.id()));
}
