//! Files that only their owner may read: keys, and what is kept beside them. Holds no format.
//!
//! A file here is never seen half written: it is written whole under another name, flushed to the disk, and then given
//! its name in one step. On systems without Unix permissions the modes are neither set nor checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::hex;
use crate::secret::{NoRandomness, Secret, random};

/// No key or certificate file comes near this; a larger one is the wrong file.
pub const MAX_SIZE: u64 = 64 * 1024;

/// Making an authority takes milliseconds. Longer means that the holder hangs, or that the lock is somebody else's.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Makes `path` with mode 0700 when it is absent, and refuses it when others than its owner can enter or list it.
pub fn directory(path: &Path) -> Result<(), PrivateFileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, DIRECTORY_MODE);
    builder.create(path).map_err(|source| failed("making the directory", path, source))?;
    let metadata = fs::metadata(path).map_err(|source| failed("looking at", path, source))?;
    refuse_if_open(path, &metadata, DIRECTORY_MODE)
}

/// The contents, or `None` when there is no such file. Refuses a file that others than its owner may read or write.
pub fn read(path: &Path) -> Result<Option<Secret<Vec<u8>>>, PrivateFileError> {
    let Some(file) = open(path)? else { return Ok(None) };
    // Asked of the open file and not of the path, so that nothing can be swapped in between.
    let metadata = file.metadata().map_err(|source| failed("looking at", path, source))?;
    refuse_if_open(path, &metadata, FILE_MODE)?;
    contents(&file, path).map(Some)
}

/// Like [`read`], for what is no secret (a certificate): any mode will do.
pub(crate) fn read_public(path: &Path) -> Result<Option<Secret<Vec<u8>>>, PrivateFileError> {
    let Some(file) = open(path)? else { return Ok(None) };
    contents(&file, path).map(Some)
}

/// Writes the file with mode 0600, in place of the one that may be there. Its directory must exist.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), PrivateFileError> {
    let written = Written::beside(path, contents)?;
    fs::rename(&written.path, path).map_err(|source| failed("writing", path, source))?;
    flush_directory_of(path)
}

/// Writes the file with mode 0600 unless it exists already; `false` when it did, and then it is as it was.
///
/// A hard link and not a rename: a rename would put the second of two racing processes' key in place of the first's.
pub(crate) fn create(path: &Path, contents: &[u8]) -> Result<bool, PrivateFileError> {
    let written = Written::beside(path, contents)?;
    match fs::hard_link(&written.path, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(source) => return Err(failed("writing", path, source)),
    }
    flush_directory_of(path)?;
    Ok(true)
}

/// Waits, within limits, until no other process holds this lock. It is held until the file is dropped, and by nobody
/// any more when its holder was killed.
pub(crate) fn lock(path: &Path) -> Result<File, PrivateFileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    let file = options.open(path).map_err(|source| failed("opening", path, source))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(fs::TryLockError::WouldBlock) => {
                return Err(PrivateFileError::Locked { path: path.to_owned() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed("locking", path, source)),
        }
    }
}

/// A complete file under a name that nobody looks for; gone again when it is dropped.
struct Written {
    path: PathBuf,
}

impl Written {
    fn beside(target: &Path, contents: &[u8]) -> Result<Self, PrivateFileError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", hex::encode(&random::<8>()?)));
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
        let mut file = options.open(&path).map_err(|source| failed("writing", target, source))?;
        let written = Self { path };
        file.write_all(contents)
            .and_then(|()| file.sync_all())
            .map_err(|source| failed("writing", target, source))?;
        Ok(written)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // After a rename it is no longer there; otherwise a leftover is harmless, with mode 0600 under an unused name.
        drop(fs::remove_file(&self.path));
    }
}

fn open(path: &Path) -> Result<Option<File>, PrivateFileError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("reading", path, source)),
    }
}

fn contents(file: &File, path: &Path) -> Result<Secret<Vec<u8>>, PrivateFileError> {
    let size = file.metadata().map_err(|source| failed("looking at", path, source))?.len();
    let too_large = || PrivateFileError::TooLarge { path: path.to_owned() };
    // Reserved at once: a vector that grows would leave copies of a key in freed memory.
    let reserve = usize::try_from(size.min(MAX_SIZE)).map_err(|_| too_large())?.saturating_add(1);
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(reserve));
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|source| failed("reading", path, source))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(too_large());
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(unix)]
fn refuse_if_open(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), PrivateFileError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(PrivateFileError::OpenToOthers { path: path.to_owned(), mode, wanted })
}

#[cfg(not(unix))]
fn refuse_if_open(_: &Path, _: &fs::Metadata, _: u32) -> Result<(), PrivateFileError> {
    Ok(())
}

/// Without this the name itself may be lost in a power cut, though the contents are on the disk.
#[cfg(unix)]
fn flush_directory_of(path: &Path) -> Result<(), PrivateFileError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed("flushing the directory", directory, source))
}

#[cfg(not(unix))]
fn flush_directory_of(_: &Path) -> Result<(), PrivateFileError> {
    Ok(())
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> PrivateFileError {
    PrivateFileError::Io { doing, path: path.to_owned(), source }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is open to other users (mode {mode:04o}): run `chmod {wanted:o} {}`",
        path.display(), path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32, wanted: u32 },
    #[error("reading {}: larger than {MAX_SIZE} bytes, so it is not a key or a certificate", path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "waiting for {}: still held after {} s by another process that uses this directory",
        path.display(), LOCK_WAIT.as_secs()
    )]
    Locked { path: PathBuf },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_directory_and_its_files_are_their_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let made = root.path().join("deep/er");
        directory(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        let file = made.join("key");
        assert!(create(&file, b"one").unwrap());
        assert_eq!(mode(&file), 0o600);
        replace(&file, b"two").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(read(&file).unwrap().unwrap().expose(), b"two");
        assert_eq!(fs::read_dir(&made).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn an_open_directory_or_file_is_refused_with_the_command_to_run() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = directory(root.path()).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("(mode 0750): run `chmod 700 {}`", root.path().display())),
            "{error}"
        );

        let file = root.path().join("key");
        fs::write(&file, "x").unwrap();
        for wide in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&file, fs::Permissions::from_mode(wide)).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.ends_with(&format!("run `chmod 600 {}`", file.display())), "{error}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read(&file).unwrap().is_some());
    }

    #[test]
    fn what_exists_is_never_overwritten_by_create() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        assert!(create(&file, b"first").unwrap());
        assert!(!create(&file, b"second").unwrap());
        assert_eq!(read(&file).unwrap().unwrap().expose(), b"first");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_and_an_absent_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        assert!(read(&file).unwrap().is_none());
        replace(&file, &vec![0; 64 * 1024]).unwrap();
        assert!(read(&file).unwrap().is_some());
        replace(&file, &vec![0; 64 * 1024 + 1]).unwrap();
        assert!(matches!(read(&file), Err(PrivateFileError::TooLarge { .. })));
    }
}
