//! What lies under the database, and how a commit that failed is taken back.
//!
//! What redb takes for committed hangs on the first page alone: whatever else it writes goes to places
//! that the last commit does not use. So after a failure the first page is put back as it was last
//! synced, and the commit that failed never happened. That also settles what the kernel leaves open
//! after a failed sync, when it may take pages for written that never were: nothing leads to them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// In bytes, as redb has them; the first one is its header.
const PAGE: usize = 4096;

/// A medium, what its first page is to be, and what last failed on it.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Arc<dyn StorageBackend>,
    first_page: Mutex<FirstPage>,
    fault: Mutex<Option<Arc<io::Error>>>,
}

/// As written, and as of the last sync that succeeded.
#[derive(Debug)]
struct FirstPage {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl Disk {
    pub(super) fn new(medium: Arc<dyn StorageBackend>) -> io::Result<Self> {
        let length = usize::try_from(medium.len()?).unwrap_or(PAGE).min(PAGE);
        let mut synced = vec![0; length];
        medium.read(0, &mut synced)?;
        let first_page = Mutex::new(FirstPage { written: synced.clone(), synced });
        Ok(Self { medium, first_page, fault: Mutex::new(None) })
    }

    /// What failed since this was last asked for with `take`.
    pub(super) fn fault(&self) -> Option<Arc<io::Error>> {
        lock(&self.fault).clone()
    }

    /// Takes the medium for one that failed.
    pub(super) fn fail(&self, cause: io::Error) {
        lock(&self.fault).get_or_insert(Arc::new(cause));
    }

    /// The last durable commit is the last one again, also after a power cut.
    pub(super) fn take_back(&self) -> io::Result<()> {
        *lock(&self.fault) = None;
        let mut page = lock(&self.first_page);
        self.noting(self.medium.write(0, &page.synced))?;
        self.noting(self.medium.sync_data())?;
        page.written = page.synced.clone();
        Ok(())
    }

    /// Keeps the cause: redb names it once, and only "a previous error" from then on.
    fn noting<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let kept = error.raw_os_error().map_or_else(
                || io::Error::new(error.kind(), error.to_string()),
                io::Error::from_raw_os_error,
            );
            lock(&self.fault).get_or_insert(Arc::new(kept));
        })
    }
}

/// The medium as it is. Locks are none of redb's business: the store holds one for as long as it is
/// open, over every time that it opens its database again.
#[derive(Debug)]
pub(super) struct Live(pub(super) Arc<Disk>);

impl StorageBackend for Live {
    fn len(&self) -> io::Result<u64> {
        self.0.noting(self.0.medium.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.noting(self.0.medium.read(offset, out))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.noting(self.0.medium.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Held meanwhile, so that what is noted as synced is what was.
        let mut page = lock(&self.0.first_page);
        self.0.noting(self.0.medium.sync_data())?;
        page.synced = page.written.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut page = lock(&self.0.first_page);
        self.0.noting(self.0.medium.write(offset, data))?;
        if let Ok(start) = usize::try_from(offset)
            && start < PAGE
        {
            let end = PAGE.min(start + data.len());
            let length = page.written.len().max(end);
            page.written.resize(length, 0);
            page.written[start..end].copy_from_slice(&data[..end - start]);
        }
        Ok(())
    }
}

/// The medium as of the last durable commit, for reading while it cannot be written: whatever redb
/// writes to set itself right stays in memory.
#[derive(Debug)]
pub(super) struct Frozen {
    disk: Arc<Disk>,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    length: u64,
    /// By the number of the page.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Frozen {
    pub(super) fn new(disk: Arc<Disk>) -> io::Result<Self> {
        let length = disk.medium.len()?;
        let frozen = Self { disk, changed: Mutex::new(Changed { length, pages: BTreeMap::new() }) };
        let first = lock(&frozen.disk.first_page).synced.clone();
        frozen.write(0, &first)?;
        Ok(frozen)
    }

    /// A page of the medium; zeros where that is shorter.
    fn untouched(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; PAGE];
        let start = number * PAGE as u64;
        let there = self.disk.medium.len()?.saturating_sub(start);
        let there = usize::try_from(there).unwrap_or(PAGE).min(PAGE);
        self.disk.medium.read(start, &mut page[..there])?;
        Ok(page)
    }
}

impl StorageBackend for Frozen {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.changed).length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = lock(&self.changed);
        if offset + out.len() as u64 > changed.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, start, part) in by_page(offset, out.len()) {
            let out = &mut out[part];
            match changed.pages.get(&number) {
                Some(page) => out.copy_from_slice(&page[start..start + out.len()]),
                None => {
                    let page = self.disk.noting(self.untouched(number))?;
                    out.copy_from_slice(&page[start..start + out.len()]);
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        lock(&self.changed).length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = lock(&self.changed);
        for (number, start, part) in by_page(offset, data.len()) {
            let data = &data[part];
            let page = match changed.pages.remove(&number) {
                Some(page) => page,
                None => self.disk.noting(self.untouched(number))?,
            };
            let page = changed.pages.entry(number).or_insert(page);
            page[start..start + data.len()].copy_from_slice(data);
        }
        Ok(())
    }
}

/// Pieces of a range that do not cross pages: the page, where in it, and which part of the range.
fn by_page(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE as u64) as usize;
        let part = done..length.min(done + PAGE - start);
        done = part.end;
        Some((at / PAGE as u64, start, part))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
