//! A file that somebody changed behind the store's back.

use std::path::Path;

use redb::{Database, TableDefinition};
use store::{Change, Draft, EmbeddedStore, Error, Expect, Filter, SecretBytes};

use crate::kit::{Kit, draft, key, origin};

const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
const PRIVATE: TableDefinition<&str, &[u8]> = TableDefinition::new("private");
const COMMITS: TableDefinition<u64, &[u8]> = TableDefinition::new("commits");

/// Puts another value in the place of one.
fn put<K: redb::Key + 'static>(
    folder: &Path,
    table: TableDefinition<K, &[u8]>,
    key: K::SelfType<'_>,
    row: &[u8],
) {
    let file = Database::create(folder.join("store.redb")).unwrap();
    let writing = file.begin_write().unwrap();
    writing.open_table(table).unwrap().insert(key, row).unwrap();
    writing.commit().unwrap();
}

fn row<K: redb::Key + 'static>(
    folder: &Path,
    table: TableDefinition<K, &[u8]>,
    key: K::SelfType<'_>,
) -> Vec<u8> {
    use redb::ReadableDatabase;
    let file = Database::create(folder.join("store.redb")).unwrap();
    let reading = file.begin_read().unwrap();
    reading.open_table(table).unwrap().get(key).unwrap().unwrap().value().to_vec()
}

/// The header of a row as it is, and the body of another.
fn with_body_of(row: &[u8], other: &[u8]) -> Vec<u8> {
    let body = |row: &[u8]| 4 + u32::from_be_bytes(row[..4].try_into().unwrap()) as usize;
    [&row[..body(row)], &other[body(other)..]].concat()
}

fn damaged<T: std::fmt::Debug>(answer: Result<T, Error>, name: &str) {
    let Err(Error::Damaged { what }) = answer else { panic!("{answer:?}") };
    assert!(what.contains(name), "{what} names {name}");
}

#[tokio::test]
async fn a_private_value_opens_nowhere_but_in_its_own_place() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    let store = EmbeddedStore::open(&folder, origin("east")).unwrap();
    for name in ["ca", "salt", "changed", "other"] {
        store.secret_put(name, SecretBytes::from(name.as_bytes().to_vec())).await.unwrap();
    }
    drop(store);
    let (ca, salt) = (row(&folder, PRIVATE, "ca"), row(&folder, PRIVATE, "salt"));
    put(&folder, PRIVATE, "ca", &salt);
    put(&folder, PRIVATE, "salt", &ca);
    let mut changed = row(&folder, PRIVATE, "changed");
    *changed.last_mut().unwrap() ^= 1;
    put(&folder, PRIVATE, "changed", &changed);

    let store = EmbeddedStore::open(&folder, origin("east")).unwrap();
    for name in ["ca", "salt", "changed"] {
        damaged(store.secret_get(name).await, name);
    }
    assert_eq!(store.secret_get("other").await.unwrap().unwrap().expose(), b"other");
    // It is not lost for ever: whoever knows it writes it again.
    store.secret_put("ca", SecretBytes::from(b"new".to_vec())).await.unwrap();
    assert_eq!(store.secret_get("ca").await.unwrap().unwrap().expose(), b"new");
}

#[tokio::test]
async fn a_secret_document_that_does_not_open_leaves_the_others_readable() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    let store = EmbeddedStore::open(&folder, origin("global")).unwrap();
    // Of one length, so that nothing but the seal tells them apart.
    for (name, secret) in [("a", true), ("b", true), ("c", true), ("plain", false)] {
        let draft = Draft { secret, ..draft(&format!("global/{name}"), &format!("of {name:>5}")) };
        store.put(draft, Expect::Any).await.unwrap();
    }
    drop(store);
    let name = |text| key(text).to_string();
    let (a, b) = (row(&folder, RECORDS, &name("global/a")), row(&folder, RECORDS, &name("global/b")));
    put(&folder, RECORDS, &name("global/a"), &with_body_of(&a, &b));
    put(&folder, RECORDS, &name("global/b"), &with_body_of(&b, &a));
    let mut second = row(&folder, COMMITS, 2);
    *second.last_mut().unwrap() ^= 1;
    put(&folder, COMMITS, 2, &second);
    put(&folder, COMMITS, 3, b"not a row");

    let store = EmbeddedStore::open(&folder, origin("global")).unwrap();
    for text in ["global/a", "global/b"] {
        damaged(store.get(&key(text)).await, &name(text));
    }
    let names = |records: Vec<model::Record>| {
        records.iter().map(|record| record.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(store.list(Filter::all()).await.unwrap().records), ["c", "plain"]);
    let lacked = store.since(model::World::default(), Filter::all()).await.unwrap();
    assert_eq!(names(lacked.records), ["c", "plain"]);

    let mut watch = store.watch(0);
    let first = watch.next().await.unwrap();
    assert!(matches!(&first.changes[..], [Change::Put(record)] if record.bytes == "of     a"));
    assert!(watch.next().await.unwrap().changes.is_empty(), "what does not open is left out");
    assert!(matches!(watch.next().await, Err(Error::Compacted { after: 2, oldest: 3 })), "list again");
    assert_eq!(store.watch(3).next().await.unwrap().changes[0].key(), &key("global/plain"));

    // Its owner sets it right.
    let again = Draft { secret: true, ..draft("global/a", "again") };
    assert!(store.put(again, Expect::Any).await.unwrap().changed);
    assert_eq!(store.get(&key("global/a")).await.unwrap().unwrap().bytes, "again");
    store.delete(key("global/b"), Expect::Any).await.unwrap();
    assert_eq!(names(store.list(Filter::all()).await.unwrap().records), ["a", "c", "plain"]);
}
