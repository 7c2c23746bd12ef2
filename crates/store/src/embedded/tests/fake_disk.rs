//! A disk in memory that keeps what was synced, and of the rest what it likes.

use std::io;
use std::sync::{Mutex, MutexGuard};

use redb::StorageBackend;

use super::Dice;

/// What a disk writes whole.
const SECTOR: usize = 512;

#[derive(Debug)]
pub(super) struct FakeDisk(Mutex<State>);

#[derive(Debug)]
struct State {
    dice: Dice,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What is read.
    current: Vec<u8>,
    /// Written since the last sync.
    pending: Vec<Operation>,
    /// Writes, changes of length and syncs so far.
    operations: u64,
    /// The operation that the power goes with.
    cut_at: Option<u64>,
    /// The operation at which whoever asked for it meets a mistake in the code that writes.
    panic_at: Option<u64>,
    condition: Condition,
    /// Says that it synced, and did not.
    lies: bool,
}

#[derive(Clone, Debug)]
enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLength(usize),
}

/// What the disk does to those who use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    Sound,
    /// Every operation that changes anything fails, in part done.
    ReadOnly,
    /// Syncs fail, and some of what was written is taken for synced ever after though it is not.
    SyncFails,
    /// Nothing is written beyond what was there.
    Full,
    /// Reads fail as well.
    Dead,
}

impl FakeDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, Vec::new())
    }

    fn with(seed: u64, durable: Vec<u8>) -> Self {
        Self(Mutex::new(State {
            dice: Dice(seed),
            current: durable.clone(),
            durable,
            pending: Vec::new(),
            operations: 0,
            cut_at: None,
            panic_at: None,
            condition: Condition::Sound,
            lies: false,
        }))
    }

    pub(super) fn lying(self) -> Self {
        self.state().lies = true;
        self
    }

    /// The power goes with the n-th operation from now on.
    pub(super) fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
    }

    /// The n-th operation from now on panics, and what comes after is as before.
    pub(super) fn panic_after(&self, operations: u64) {
        let mut state = self.state();
        state.panic_at = Some(state.operations + operations);
    }

    /// Whether it is still to panic.
    pub(super) fn is_to_panic(&self) -> bool {
        self.state().panic_at.is_some()
    }

    pub(super) fn becomes(&self, condition: Condition) {
        self.state().condition = condition;
    }

    /// What is found when the power is back: what was synced, and of the rest any part, in any order, torn
    /// at any sector.
    pub(super) fn after_a_power_cut(&self) -> Self {
        let mut state = self.state();
        let (mut dice, mut left, mut pending) =
            (state.dice.clone(), state.durable.clone(), state.pending.clone());
        state.condition = Condition::Dead;
        // Between nothing and everything.
        let kept = dice.below(5);
        for n in (1..pending.len()).rev() {
            pending.swap(n, dice.below(n as u64 + 1) as usize);
        }
        for operation in pending {
            match operation {
                _ if dice.below(4) >= kept => {}
                Operation::SetLength(length) => left.resize(length, 0),
                Operation::Write { offset, data } => {
                    let torn = dice.one_in(3);
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if !torn || dice.one_in(2) {
                            put(&mut left, offset + n * SECTOR, sector);
                        }
                    }
                }
            }
        }
        let lies = state.lies;
        let disk = Self::with(dice.next(), left);
        disk.state().lies = lies;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Begins an operation that changes something.
    fn change(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.operations += 1;
        if state.panic_at.is_some_and(|at| state.operations >= at) {
            state.panic_at = None;
            drop(state);
            panic!("the disk was asked to panic");
        }
        if state.cut_at.is_some_and(|at| state.operations >= at) {
            state.condition = Condition::Dead;
        }
        state
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        let state = self.state();
        if state.condition == Condition::Dead {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(state.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if state.condition == Condition::Dead {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let start = offset as usize;
        let there = state.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.change();
        let length = length as usize;
        let condition = state.condition;
        match condition {
            Condition::Dead | Condition::ReadOnly => return Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            // Half of the file systems notice here, the others when the space is written to.
            Condition::Full if length > state.current.len() && state.dice.one_in(2) => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            _ => {}
        }
        state.current.resize(length, 0);
        state.pending.push(Operation::SetLength(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change();
        match state.condition {
            Condition::Dead | Condition::ReadOnly => return Err(io::ErrorKind::Other.into()),
            Condition::SyncFails => {
                let mut dice = state.dice.clone();
                state.pending.retain(|_| dice.one_in(2));
                state.dice = dice;
                return Err(io::ErrorKind::Other.into());
            }
            Condition::Sound | Condition::Full => {}
        }
        if !state.lies {
            for operation in std::mem::take(&mut state.pending) {
                match operation {
                    Operation::Write { offset, data } => put(&mut state.durable, offset, &data),
                    Operation::SetLength(length) => state.durable.resize(length, 0),
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.change();
        let offset = offset as usize;
        let (done, failed) = match state.condition {
            Condition::Sound | Condition::SyncFails => (data.len(), None),
            Condition::Full if offset + data.len() <= state.durable.len() => (data.len(), None),
            Condition::Full => (0, Some(io::ErrorKind::StorageFull)),
            Condition::Dead => (0, Some(io::ErrorKind::NotConnected)),
            // In part, by the sector.
            Condition::ReadOnly => {
                let sectors = (data.len() / SECTOR) as u64;
                (state.dice.below(sectors + 1) as usize * SECTOR, Some(io::ErrorKind::Other))
            }
        };
        let data = &data[..done];
        if !data.is_empty() {
            put(&mut state.current, offset, data);
            state.pending.push(Operation::Write { offset, data: data.to_vec() });
        }
        failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let length = bytes.len().max(offset + data.len());
    bytes.resize(length, 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}
