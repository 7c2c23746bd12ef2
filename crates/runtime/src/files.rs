//! Files that hold secrets or state: whole or not there, and for our eyes only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces a file by one with these bytes (0600): after a crash either the old or the new one is there,
/// whole. Blocks until the disk has it.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, true)
}

/// Like [`write_private`], but does not wait for the disk: for what may be lost without harm.
pub fn write_private_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, false)
}

/// [`write_private`] off the async threads.
pub async fn save_private(path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || write_private(&path, &bytes)).await;
    written.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// Makes a folder and those above it (0700); one that is there stays as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the token file {path}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the token file {path} is not one line of text with a token")]
    NotAToken { path: PathBuf },
}

/// The token in a file: one line, without the white space around it. The token itself never stands in an
/// error.
pub fn read_token(path: &Path) -> Result<String, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST_TOKEN + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let token = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    let usable = bytes.len() as u64 <= LONGEST_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
    if usable && !token.is_empty() {
        Ok(token.to_owned())
    } else {
        Err(TokenFileError::NotAToken { path: path.into() })
    }
}

const LONGEST_TOKEN: u64 = 16 * 1024;

fn replace(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A name of its own for each write: two writers must not write into one file.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", RandomState::new().build_hasher().finish()));
    let temporary = folder.join(temporary);

    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        // The rename is safe only when the folder is on the disk as well.
        if sync { File::open(folder)?.sync_all() } else { Ok(()) }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "an older and longer one, readable for all").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        save_private(path.clone(), b"newer".to_vec()).await.unwrap();
        write_private_unsynced(&dir.path().join("signals"), b"1").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary is left");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        create_private_dir(&taken.join("inside")).unwrap();
        assert!(write_private(&taken, b"x").is_err(), "a folder is not replaced by a file");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_private(&dir.path().join("no/such/folder"), b"x").is_err());
    }

    #[test]
    fn a_token_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(read_token(&path), Err(TokenFileError::Unreadable { .. })));
        for (content, want) in [
            ("abc.def\n", Some("abc.def")),
            ("  abc \n\n", Some("abc")),
            ("", None),
            ("\n", None),
            ("a\nb", None),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(read_token(&path).ok().as_deref(), want, "{content:?}");
        }
        fs::write(&path, "x".repeat(LONGEST_TOKEN as usize + 1)).unwrap();
        assert!(matches!(read_token(&path), Err(TokenFileError::NotAToken { .. })));
    }
}
