//! Opens the two files of a store, and makes sure that they belong together and to this origin.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use model::Origin;
use redb::ReadTransaction;
use redb::backends::FileBackend;
use zeroize::Zeroizing;

use super::file::{Keep, StoreFile};
use super::rows::{self, Rows};
use crate::error::{Error, OpenError};
use crate::seal::{SecretBytes, StoreKey, StoreKeys, new_store_key};

/// Raised when a file of today could no longer be read.
const FORMAT: u64 = 1;

/// Facts about a file.
const FORMAT_FACT: &str = "format";
const ORIGIN_FACT: &str = "origin";
/// Sealed with the store key, so that another key is noticed at once.
const KEY_FACT: &str = "key";

pub(super) fn open(folder: &Path, origin: &Origin) -> Result<(StoreFile, StoreKeys), OpenError> {
    let path = folder.join("store.redb");
    let key_path = folder.join("store.key");
    fs::create_dir_all(folder).map_err(file_error(folder))?;
    let exists = path.try_exists().map_err(file_error(&path))?;
    // A new file gets its name when it is whole, since what a crash leaves of one does not open.
    let unfinished = folder.join("store.redb.new");
    let file = locked(if exists { &path } else { &unfinished })?;
    // From here on nobody else has the file open, so that the key cannot be minted twice.
    if !exists {
        if path.try_exists().map_err(file_error(&path))? {
            return Err(OpenError::InUse { path });
        }
        file.set_len(0).map_err(file_error(&unfinished))?;
    }
    let medium = FileBackend::new(file).map_err(database_error(&path))?;
    let file = StoreFile::open(Arc::new(medium)).map_err(database_error(&path))?;
    let keys = if exists {
        let facts = file.read(facts).map_err(database_error(&path))?;
        check_format(&facts.format, &path)?;
        check_origin(&facts.origin, origin, &path)?;
        let missing = || OpenError::KeyMissing { path: key_path.clone() };
        let keys = StoreKeys::new(&read_key(&key_path)?.ok_or_else(missing)?);
        let wrong = |_| OpenError::WrongKey { path: key_path.clone() };
        keys.open_private(KEY_FACT, &facts.key).map_err(wrong)?;
        rows::complete(&file).map_err(database_error(&path))?;
        keys
    } else {
        let keys = StoreKeys::new(&existing_or_new_key(&key_path)?);
        found(&file, origin, &keys).map_err(database_error(&path))?;
        fs::rename(&unfinished, &path).map_err(file_error(&path))?;
        keys
    };
    sync_folder(folder).map_err(file_error(folder))?;
    Ok((file, keys))
}

/// What a file says about itself.
struct Facts {
    format: Vec<u8>,
    origin: Vec<u8>,
    key: Vec<u8>,
}

fn facts(rows: &Rows<ReadTransaction>) -> Result<Facts, Error> {
    let fact = |name| Ok::<_, Error>(rows.fact(name)?.unwrap_or_default());
    Ok(Facts { format: fact(FORMAT_FACT)?, origin: fact(ORIGIN_FACT)?, key: fact(KEY_FACT)? })
}

/// Writes down what a new file is.
pub(super) fn found(file: &StoreFile, origin: &Origin, keys: &StoreKeys) -> Result<(), Error> {
    file.write(|rows| {
        rows::create(rows)?;
        rows.put_fact(ORIGIN_FACT, origin.as_str().as_bytes())?;
        rows.put_fact(KEY_FACT, &keys.seal_private(KEY_FACT, &SecretBytes::from(Vec::new())))?;
        rows.put_fact(FORMAT_FACT, FORMAT.to_string().as_bytes())?;
        Ok(Keep::All)
    })
}

fn check_format(format: &[u8], path: &Path) -> Result<(), OpenError> {
    let found = String::from_utf8_lossy(format).parse().unwrap_or_default();
    if found == FORMAT {
        return Ok(());
    }
    Err(OpenError::Format { path: path.to_owned(), found, known: FORMAT })
}

fn check_origin(written: &[u8], wanted: &Origin, path: &Path) -> Result<(), OpenError> {
    let found: Origin = String::from_utf8_lossy(written).parse().map_err(database_error(path))?;
    if found == *wanted {
        return Ok(());
    }
    Err(OpenError::WrongOrigin { path: path.to_owned(), found, wanted: wanted.clone() })
}

/// A key may be there before the store: whoever runs the program may bring one.
fn existing_or_new_key(path: &Path) -> Result<StoreKey, OpenError> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let key = new_store_key();
    write_key(path, &key).map_err(file_error(path))?;
    Ok(key)
}

fn read_key(path: &Path) -> Result<Option<StoreKey>, OpenError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path)(error)),
    };
    let key = <[u8; 32]>::try_from(bytes.as_slice());
    key.map(|key| Some(Zeroizing::new(key))).map_err(|_| OpenError::WrongKey { path: path.to_owned() })
}

/// Whole or not at all, whenever the machine stops.
fn write_key(path: &Path, key: &StoreKey) -> io::Result<()> {
    let unfinished = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(key.as_slice())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Open for reading and writing, there afterwards, for its owner only, and for this process alone.
fn locked(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(file_error(path))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(file_error(path))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse { path: path.to_owned() },
        TryLockError::Error(source) => file_error(path)(source),
    })?;
    Ok(file)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::File { path, source }
}

fn database_error<E>(path: &Path) -> impl FnOnce(E) -> OpenError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = path.to_owned();
    move |error| OpenError::Database { path, source: error.into() }
}
