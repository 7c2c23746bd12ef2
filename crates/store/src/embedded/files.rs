//! Opens the two files of a store, and makes sure that they belong together and to this origin.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::Origin;
use redb::{Builder, Database, DatabaseError, WriteTransaction};
use zeroize::Zeroizing;

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

/// How much of the file is kept in memory at most, in bytes.
const CACHE: usize = 32 * 1024 * 1024;

pub(super) fn open(folder: &Path, origin: &Origin) -> Result<(Database, StoreKeys), OpenError> {
    let path = folder.join("store.redb");
    let key_path = folder.join("store.key");
    fs::create_dir_all(folder).map_err(file_error(folder))?;
    make_private(&path).map_err(file_error(&path))?;
    // From here on nobody else has the file open, so that the key cannot be minted twice.
    let database = Builder::new().set_cache_size(CACHE).create(&path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.clone() },
        other => database_error(&path)(other),
    })?;
    let mut rows = Rows(database.begin_write().map_err(database_error(&path))?);
    let keys = match fact(&rows, FORMAT_FACT, &path)? {
        None => {
            let keys = StoreKeys::new(&existing_or_new_key(&key_path)?);
            found(&mut rows, origin, &keys).map_err(database_error(&path))?;
            keys
        }
        Some(format) => {
            check_format(&format, &path)?;
            check_origin(&fact(&rows, ORIGIN_FACT, &path)?.unwrap_or_default(), origin, &path)?;
            let missing = || OpenError::KeyMissing { path: key_path.clone() };
            let keys = StoreKeys::new(&read_key(&key_path)?.ok_or_else(missing)?);
            let sealed = fact(&rows, KEY_FACT, &path)?.unwrap_or_default();
            let wrong = |_| OpenError::WrongKey { path: key_path.clone() };
            keys.open_private(KEY_FACT, &sealed).map_err(wrong)?;
            rows::create_later(&rows).map_err(database_error(&path))?;
            keys
        }
    };
    rows.0.commit().map_err(database_error(&path))?;
    sync_folder(folder).map_err(file_error(folder))?;
    Ok((database, keys))
}

/// Writes down what a new file is.
fn found(rows: &mut Rows<WriteTransaction>, origin: &Origin, keys: &StoreKeys) -> Result<(), Error> {
    rows::create(rows)?;
    rows.put_fact(ORIGIN_FACT, origin.as_str().as_bytes())?;
    rows.put_fact(KEY_FACT, &keys.seal_private(KEY_FACT, &SecretBytes::from(Vec::new())))?;
    rows.put_fact(FORMAT_FACT, FORMAT.to_string().as_bytes())
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

/// The file exists afterwards and only its owner can read it.
fn make_private(path: &PathBuf) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn fact(rows: &Rows<WriteTransaction>, name: &str, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    rows.fact(name).map_err(database_error(path))
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
