//! What a store is asked to do in these tests, and what it must hold afterwards: the same as a store in
//! memory that was asked for what was acknowledged.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use model::{DocumentKey, Point, Record, Version, World};

use super::Dice;
use crate::error::Error;
use crate::memory::MemoryStore;
use crate::query::Filter;
use crate::seal::SecretBytes;
use crate::store::Store;
use crate::write::{Draft, Expect, Write};

/// One thing to ask for.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Writes(Vec<Write>),
    Secret { name: String, value: Option<Vec<u8>> },
}

const SECRETS: u64 = 3;

impl Work {
    /// The n-th: copies need numbers that rise.
    pub(super) fn roll(dice: &mut Dice, n: u64) -> Self {
        if dice.one_in(8) {
            let name = format!("secret{}", dice.below(SECRETS));
            let value = (!dice.one_in(3)).then(|| content(dice));
            return Self::Secret { name, value };
        }
        let mut writes: Vec<_> = (0..=dice.below(4)).map(|_| roll_write(dice, n)).collect();
        if dice.one_in(3) {
            writes.push(Write::Advance([version(n)].into_iter().map(|v| (v.origin, v.point)).collect()));
        }
        Self::Writes(writes)
    }

    pub(super) async fn ask(&self, store: &Arc<dyn Store>) -> Result<(), Error> {
        match self.clone() {
            Self::Writes(writes) => store.apply(writes).await.map(drop),
            Self::Secret { name, value: Some(value) } => {
                store.secret_put(&name, SecretBytes::from(value)).await
            }
            Self::Secret { name, value: None } => store.secret_delete(&name).await,
        }
    }
}

fn roll_write(dice: &mut Dice, n: u64) -> Write {
    let own = |dice: &mut Dice| key("east", dice.below(7));
    let copied = |dice: &mut Dice| key("global", dice.below(5));
    match dice.below(8) {
        0..4 => {
            let draft = Draft { secret: dice.one_in(4), ..Draft::new(own(dice), content(dice)) };
            Write::Put { draft, expect: Expect::Any }
        }
        // It may not be there, which refuses the whole transaction.
        4 => Write::Delete { key: own(dice), expect: Expect::Any },
        5 | 6 => Write::Copy(Record {
            key: copied(dice),
            version: version(n),
            secret: dice.one_in(4),
            requires: Vec::new(),
            bundle: None,
            bytes: Bytes::from(content(dice)),
        }),
        _ => Write::Forget { key: copied(dice), version: version(n) },
    }
}

/// From a few bytes to some pages.
fn content(dice: &mut Dice) -> Vec<u8> {
    let most = if dice.one_in(6) { 40_000 } else { 900 };
    let length = dice.below(most);
    (0..length).map(|_| dice.next() as u8).collect()
}

fn key(origin: &str, n: u64) -> DocumentKey {
    format!("MeshService/default/{origin}//d{n}").parse().unwrap()
}

fn version(n: u64) -> Version {
    format!("global-1-{n}").parse().unwrap()
}

/// What a store of this history must hold.
pub(super) fn model() -> Arc<dyn Store> {
    MemoryStore::of(super::identity())
}

/// Everything that can be read of both is the same: documents, deletions, the line and its hashes, the
/// change log, private values.
pub(super) async fn same(store: &Arc<dyn Store>, model: &Arc<dyn Store>) -> Result<(), String> {
    let head = store.head().await;
    let point = head.as_ref().map(|head| head.point).unwrap_or_default();
    equal("where they stand", head, model.head().await)?;
    equal("documents", store.list(Filter::all()).await, model.list(Filter::all()).await)?;
    let since = async |store: &Arc<dyn Store>| store.since(World::default(), Filter::all()).await;
    equal("what somebody lacks", since(store).await, since(model).await)?;
    for revision in 0..=point.revision + 1 {
        let at = Point { revision, ..point };
        equal("hashes", store.hash_at(at).await, model.hash_at(at).await)?;
    }
    for n in 0..SECRETS {
        let name = format!("secret{n}");
        equal("private values", store.secret_get(&name).await, model.secret_get(&name).await)?;
    }
    let last = model.head().await.map_err(|error| error.to_string())?.sequence;
    let after = last.saturating_sub(super::RETENTION.commits);
    let (mut found, mut wanted) = (store.watch(after), model.watch(after));
    for _ in after..last {
        equal("the change log", found.next().await, wanted.next().await)?;
    }
    Ok(())
}

fn equal<T: Debug + PartialEq>(
    what: &str,
    found: Result<T, Error>,
    wanted: Result<T, Error>,
) -> Result<(), String> {
    match (found, wanted) {
        (Ok(found), Ok(wanted)) if found == wanted => Ok(()),
        // Of a history that was cut.
        (Err(Error::Compacted { .. }), Err(Error::Compacted { .. })) => Ok(()),
        (found, wanted) => Err(format!("{what}: {found:?} is not {wanted:?}")),
    }
}
