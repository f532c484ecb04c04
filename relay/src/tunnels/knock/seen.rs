//! The file that says where tunnels over QUIC are: a first line, and then one line for each address. Only advice, and so written in
//! place and not flushed: it outlives the process and need not outlive the machine. Holds no key, sends nothing.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const FILE: &str = "quic.addresses";

/// So that no file of another kind, or form, is read for one.
const FIRST_LINE: &str = "culvert tunnels over quic 1\n";

/// More tunnels than one relay is known to have been given; the others notice by themselves.
pub(super) const MOST: usize = 8_192;
/// IPv6 with a scope and a port: `[ffff:…:ffff%4294967295]:65535` and the line's end.
const LONGEST_LINE: usize = 60;
const MOST_BYTES: usize = FIRST_LINE.len() + MOST * LONGEST_LINE;

/// A relay that was away for longer than this finds none of them: its clients have given their tunnels up after 12 s. Twice that,
/// and what lies between two writes.
const RECENT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Seen(PathBuf);

impl Seen {
    pub(super) fn in_directory(data: &Path) -> Self {
        Self(data.join(FILE))
    }

    /// Blocks. None: there is no file, or it is an old one.
    pub(super) fn read(&self, now: SystemTime) -> Result<Vec<SocketAddr>, SeenError> {
        let path = || self.0.clone();
        let failed = |cause| SeenError::Read { path: path(), cause };
        let about = match fs::metadata(&self.0) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(failed(cause)),
        };
        // What is none may block whoever opens it.
        if !about.is_file() {
            return Err(SeenError::Foreign { path: path() });
        }
        // A clock that was set back says nothing.
        if now.duration_since(about.modified().map_err(failed)?).is_ok_and(|age| age > RECENT) {
            return Ok(Vec::new());
        }
        let mut text = Vec::new();
        let file = File::open(&self.0).map_err(failed)?;
        file.take(MOST_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() > MOST_BYTES {
            return Err(SeenError::Foreign { path: path() });
        }
        parse(&text).ok_or_else(|| SeenError::Foreign { path: path() })
    }

    /// Blocks. In place of what is there.
    pub(super) fn write(&self, addresses: &[SocketAddr]) -> Result<(), SeenError> {
        let mut text = FIRST_LINE.to_owned();
        for address in addresses {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{address}");
        }
        let mut options = OpenOptions::new();
        // Emptied first: what a kill leaves is a part of it, and no mixture.
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let failed = |cause| SeenError::Write { path: self.0.clone(), cause };
        // What is none may be somebody else's, or have whoever opens it wait for ever.
        match fs::symlink_metadata(&self.0) {
            Ok(about) if !about.is_file() => return Err(SeenError::Occupied { path: self.0.clone() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed(cause)),
        }
        options.open(&self.0).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
    }

    /// Blocks.
    pub(super) fn remove(&self) {
        // One that stays costs a packet to where nobody is.
        let _ = fs::remove_file(&self.0);
    }
}

/// A last line without its end was cut short, and may look like another address.
fn parse(text: &[u8]) -> Option<Vec<SocketAddr>> {
    let text = std::str::from_utf8(text).ok()?;
    if FIRST_LINE.starts_with(text) {
        return Some(Vec::new());
    }
    let lines = text.strip_prefix(FIRST_LINE)?.split_inclusive('\n');
    let whole = lines.map_while(|line| line.strip_suffix('\n'));
    let addresses = whole.map(|line| line.parse().ok()).collect::<Option<Vec<_>>>()?;
    (addresses.len() <= MOST).then_some(addresses)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SeenError {
    #[error("reading {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("reading {}: it is not what a relay writes there", path.display())]
    Foreign { path: PathBuf },
    #[error("writing {}: what is there is no file", path.display())]
    Occupied { path: PathBuf },
    #[error("writing {}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("where tunnels are: {0}")]
    Stopped(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<SocketAddr> {
        let all = ["192.0.2.1:1", "[2001:db8::1]:65535", "[::ffff:192.0.2.2]:4433", "[fe80::1%4294967295]:1"];
        all.map(|address| address.parse().unwrap()).to_vec()
    }

    #[test]
    fn the_next_start_reads_what_this_one_has_written_unless_it_is_old() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::in_directory(directory.path());
        let now = SystemTime::now();
        assert_eq!(seen.read(now).unwrap(), []);
        seen.write(&addresses()).unwrap();
        seen.write(&addresses()[1..]).unwrap();
        assert_eq!(seen.read(now).unwrap(), addresses()[1..]);
        assert_eq!(seen.read(now - Duration::from_secs(3600)).unwrap(), addresses()[1..]);
        assert_eq!(seen.read(now + RECENT + Duration::from_secs(5)).unwrap(), []);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&seen.0).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        seen.remove();
        assert!(!seen.0.exists());
    }

    #[test]
    fn as_many_as_are_written_down_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::in_directory(directory.path());
        let longest: SocketAddr =
            "[fd00:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535".parse().unwrap();
        assert!(longest.to_string().len() < LONGEST_LINE);
        seen.write(&vec![longest; MOST]).unwrap();
        assert_eq!(seen.read(SystemTime::now()).unwrap().len(), MOST);
        for too_many in [vec![longest; MOST + 1], vec![addresses()[0]; MOST + 1]] {
            seen.write(&too_many).unwrap();
            assert!(seen.read(SystemTime::now()).is_err());
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_stands_in_its_place_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::in_directory(directory.path());
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &seen.0).unwrap();
        assert!(matches!(seen.write(&addresses()), Err(SeenError::Occupied { .. })));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
        fs::remove_file(&seen.0).unwrap();
        fs::create_dir(&seen.0).unwrap();
        assert!(matches!(seen.write(&addresses()), Err(SeenError::Occupied { .. })));
    }

    #[test]
    fn what_a_kill_has_cut_short_is_read_as_far_as_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::in_directory(directory.path());
        seen.write(&addresses()).unwrap();
        let whole = fs::read(&seen.0).unwrap();
        for length in 0..whole.len() {
            let read = parse(&whole[..length]).unwrap();
            assert!(addresses().starts_with(&read) && read.len() < addresses().len());
        }
    }

    #[test]
    fn what_is_no_such_file_is_said_to_be_none() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Seen::in_directory(directory.path());
        let foreign = ["an essay\n".as_bytes(), b"\0\0\0\0", b"192.0.2.1:1\n", b"\xff\xfe"];
        let damaged = ["192.0.2.1:1\nhttp://one\n", "192.0.2.1\n", "\n", "relay.example:4433\n192.0.2.1:1\n"]
            .map(|lines| [FIRST_LINE, lines].concat().into_bytes());
        for text in foreign.into_iter().map(<[u8]>::to_vec).chain(damaged) {
            fs::write(&seen.0, &text).unwrap();
            let error = seen.read(SystemTime::now()).unwrap_err().to_string();
            assert!(error.contains("it is not what a relay writes there"), "{text:?}: {error}");
        }
        fs::remove_file(&seen.0).unwrap();
        fs::create_dir(&seen.0).unwrap();
        assert!(seen.read(SystemTime::now()).is_err() && seen.write(&addresses()).is_err());
    }
}
