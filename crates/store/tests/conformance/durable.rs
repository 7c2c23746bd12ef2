//! What the embedded store promises besides: its files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use store::{Draft, EmbeddedStore, Error, Expect, Filter, OpenError, SecretBytes, Write};

use crate::kit::{Kit, at, copy, delete, draft, forget, key, origin, put, version, world};

#[tokio::test]
async fn reopening_finds_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), origin("east")).unwrap();
    store.transact(vec![put("east/a", "1"), put("east/b", "1"), delete("east/b")]).await.unwrap();
    let batch = vec![copy("global/c", "global-1-9", "1"), forget("global/d", "global-1-8")];
    store.apply(batch).await.unwrap();
    store.apply(vec![Write::Advance(world(&["global-1-9"]))]).await.unwrap();
    store.secret_put("ca", SecretBytes::from(b"key".to_vec())).await.unwrap();
    store.secret_put("gone", SecretBytes::from(b"key".to_vec())).await.unwrap();
    store.secret_delete("gone").await.unwrap();
    let (old, fence) =
        (store.fence("global/policy").await.unwrap(), store.fence("global/policy").await.unwrap());
    let key_file = fs::read(folder.path().join("store.key")).unwrap();
    let (head, listing) = (store.head().await.unwrap(), store.list(Filter::all()).await.unwrap());
    let lacked = store.since(world(&["east-1-0"]), Filter::all()).await.unwrap();
    drop(store);

    let store = EmbeddedStore::open(folder.path(), origin("east")).unwrap();
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(store.list(Filter::all()).await.unwrap(), listing);
    assert_eq!(store.since(world(&["east-1-0"]), Filter::all()).await.unwrap(), lacked);
    assert_eq!(store.hash_at(at(3)).await.unwrap(), Some(head.hash));
    assert_eq!(store.secret_get("ca").await.unwrap().unwrap().expose(), b"key");
    assert_eq!(store.secret_get("gone").await.unwrap(), None);
    assert!(matches!(store.apply(vec![Write::Fence(old)]).await, Err(Error::Fenced { .. })));
    store.apply(vec![Write::Fence(fence)]).await.unwrap();
    assert_eq!(fs::read(folder.path().join("store.key")).unwrap(), key_file);
    assert_eq!(store.watch(0).next().await.unwrap().changes.len(), 3, "the log is still there");
    let next = store.put(draft("east/a", "2"), Expect::Version(version("east-1-1"))).await.unwrap();
    assert_eq!(next.version, version("east-1-4"));
}

#[tokio::test]
async fn an_answered_write_is_in_the_file() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    let store = EmbeddedStore::open(&folder, origin("east")).unwrap();
    for n in 1..=20 {
        let written = store.put(draft("east/a", &n.to_string()), Expect::Any).await.unwrap();
        // What a crash at this moment would leave.
        let left = EmbeddedStore::open(&kit.copy_of(&folder), origin("east")).unwrap();
        assert_eq!(left.get(&key("east/a")).await.unwrap().unwrap().version, written.version);
        assert_eq!(left.head().await.unwrap(), store.head().await.unwrap());
    }
}

#[tokio::test]
async fn a_history_that_was_put_back_shows_in_the_hash() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    let store = EmbeddedStore::open(&folder, origin("east")).unwrap();
    store.transact(vec![put("east/a", "1"), put("east/a", "2")]).await.unwrap();
    let backup = EmbeddedStore::open(&kit.copy_of(&folder), origin("east")).unwrap();
    store.put(draft("east/a", "3"), Expect::Any).await.unwrap();
    backup.put(draft("east/a", "other"), Expect::Any).await.unwrap();
    for store in [&store, &backup] {
        store.put(draft("east/b", "the same"), Expect::Any).await.unwrap();
    }
    for (revision, same) in [(1, true), (2, true), (3, false), (4, false)] {
        let (one, other) =
            (store.hash_at(at(revision)).await.unwrap(), backup.hash_at(at(revision)).await.unwrap());
        assert!(one.is_some() && other.is_some());
        assert_eq!(one == other, same, "{revision}");
    }
}

#[tokio::test]
async fn the_rolling_hash_is_the_one_that_is_written_down() {
    use aws_lc_rs::{digest, hmac};
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), origin("east")).unwrap();
    store.transact(vec![put("east/a", "one"), delete("east/a")]).await.unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &fs::read(folder.path().join("store.key")).unwrap());
    let mut hash = vec![0; 32];
    for (revision, bytes) in [(1_u64, &b"one"[..]), (2, b"")] {
        let text = key("east/a").to_string();
        let digest = digest::digest(&digest::SHA256, bytes);
        let input = [&hash, &revision.to_be_bytes()[..], text.as_bytes(), digest.as_ref()].concat();
        hash = hmac::sign(&secret, &input).as_ref().to_vec();
        assert_eq!(store.hash_at(at(revision)).await.unwrap().unwrap().0.as_slice(), hash);
    }
}

#[tokio::test]
async fn sealed_bytes_are_not_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), origin("global")).unwrap();
    let (plain, sealed, private) = ("marker-of-plain", "marker-of-sealed", "marker-of-private");
    store.put(draft("global/plain", plain), Expect::Any).await.unwrap();
    store.put(Draft { secret: true, ..draft("global/sealed", sealed) }, Expect::Any).await.unwrap();
    store.apply(vec![secret_copy(sealed)]).await.unwrap();
    store.secret_put("private", SecretBytes::from(private.as_bytes().to_vec())).await.unwrap();
    drop(store);
    let mut files = Vec::new();
    for file in fs::read_dir(folder.path()).unwrap() {
        files.extend(fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |marker: &str| files.windows(marker.len()).any(|window| window == marker.as_bytes());
    assert_eq!((holds(plain), holds(sealed), holds(private)), (true, false, false));
}

fn secret_copy(bytes: &str) -> Write {
    let record = crate::kit::record("east/sealed", "east-1-1", bytes);
    Write::Copy(model::Record { secret: true, ..record })
}

#[tokio::test]
async fn both_files_are_their_owners_alone() {
    let kit = Kit::embedded();
    let folder = kit.folder().join("made/on/the/way");
    let _store = EmbeddedStore::open(&folder, origin("global")).unwrap();
    for file in ["store.redb", "store.key"] {
        let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left there");
}

#[tokio::test]
async fn a_store_is_open_once() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    let store = EmbeddedStore::open(&folder, origin("global")).unwrap();
    let second = EmbeddedStore::open(&folder, origin("global"));
    assert!(matches!(second.err(), Some(OpenError::InUse { .. })));
    store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    drop(store);
    for _ in 0..20 {
        let store = EmbeddedStore::open(&folder, origin("global")).unwrap();
        // Also while somebody still waits for an answer, and gives up.
        drop(store.put(draft("global/a", "2"), Expect::Any));
        let asked = tokio::spawn({
            let store = store.clone();
            async move { store.put(draft("global/a", "3"), Expect::Any).await }
        });
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_refused() {
    let kit = Kit::embedded();
    let folder = kit.folder();
    drop(EmbeddedStore::open(&folder, origin("east")).unwrap());
    let refused = |folder: &std::path::Path, owner: &str| {
        EmbeddedStore::open(folder, origin(owner)).map(drop).unwrap_err()
    };
    assert!(
        matches!(refused(&folder, "west"), OpenError::WrongOrigin { found, .. } if found == origin("east"))
    );
    let other = kit.copy_of(&folder);
    fs::write(other.join("store.key"), [7; 32]).unwrap();
    assert!(matches!(refused(&other, "east"), OpenError::WrongKey { .. }));
    fs::write(other.join("store.key"), b"short").unwrap();
    assert!(matches!(refused(&other, "east"), OpenError::WrongKey { .. }));
    fs::remove_file(other.join("store.key")).unwrap();
    assert!(matches!(refused(&other, "east"), OpenError::KeyMissing { .. }));
    assert!(!other.join("store.key").exists(), "no new key hides that the old one is gone");
    let garbage = kit.folder();
    fs::write(garbage.join("store.redb"), [1; 9000]).unwrap();
    assert!(matches!(refused(&garbage, "east"), OpenError::Database { .. }));
    EmbeddedStore::open(&folder, origin("east")).unwrap();
}

#[tokio::test]
async fn a_key_that_was_brought_is_used() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("store.key"), [7; 32]).unwrap();
    drop(EmbeddedStore::open(folder.path(), origin("east")).unwrap());
    assert_eq!(fs::read(folder.path().join("store.key")).unwrap(), [7; 32]);
    EmbeddedStore::open(folder.path(), origin("east")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_nobody_waits_for_any_more_do_not_keep_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let store = EmbeddedStore::open(folder.path(), origin("east")).unwrap();
        let puts = (0..50).map(|n| put(&format!("east/{n}"), &format!("{round} {}", "x".repeat(10_000))));
        store.transact(puts.collect()).await.unwrap();
        for _ in 0..8 {
            let reading = store.clone();
            let reading = tokio::spawn(async move { reading.list(Filter::all()).await });
            tokio::task::yield_now().await;
            reading.abort();
            // The handle goes with the task; what it began to read goes on.
            let _ = reading.await;
        }
    }
}
