//! What nobody else may read.

use store::{Change, Draft, Expect, Filter, SecretBytes, Write};

use crate::kit::{Kit, copy, draft, key, put, world};

pub(crate) async fn private_values_are_kept(kit: &Kit) {
    let store = kit.store("east");
    assert_eq!(store.secret_get("ca").await.unwrap(), None);
    for value in ["one", "two", ""] {
        let value = SecretBytes::from(value.as_bytes().to_vec());
        store.secret_put("ca", value.clone()).await.unwrap();
        assert_eq!(store.secret_get("ca").await.unwrap(), Some(value));
    }
    assert_eq!(store.secret_get("other").await.unwrap(), None);
}

pub(crate) async fn a_private_value_that_was_deleted_is_gone(kit: &Kit) {
    let store = kit.store("east");
    for name in ["ca", "other"] {
        store.secret_put(name, SecretBytes::from(b"key".to_vec())).await.unwrap();
    }
    let before = store.head().await.unwrap();
    for _ in 0..2 {
        store.secret_delete("ca").await.unwrap();
        assert_eq!(store.secret_get("ca").await.unwrap(), None);
    }
    assert!(store.secret_get("other").await.unwrap().is_some());
    for name in ["other/a", "otter", "oth"] {
        store.secret_put(name, SecretBytes::from(b"key".to_vec())).await.unwrap();
    }
    assert_eq!(store.secret_names("other").await.unwrap(), ["other", "other/a"]);
    assert_eq!(store.secret_names("ca").await.unwrap(), Vec::<String>::new());
    assert_eq!(store.head().await.unwrap(), before);
}

pub(crate) async fn private_values_are_no_documents(kit: &Kit) {
    let store = kit.store("east");
    let before = store.head().await.unwrap();
    store.secret_put("ca", SecretBytes::from(b"key".to_vec())).await.unwrap();
    assert_eq!(store.head().await.unwrap(), before);
    assert!(store.list(Filter::all()).await.unwrap().records.is_empty());
}

pub(crate) async fn secret_documents_read_back_as_they_were(kit: &Kit) {
    let store = kit.store("global");
    let secret = Draft { secret: true, ..draft("global/a", "marker") };
    store.transact(vec![put("global/b", "plain")]).await.unwrap();
    let written = store.put(secret.clone(), Expect::Any).await.unwrap();
    let again = store.put(secret, Expect::Any).await.unwrap();
    assert_eq!((again.changed, &again.version), (false, &written.version));
    let got = store.get(&key("global/a")).await.unwrap().unwrap();
    assert!(got.secret && got.bytes == "marker" && got.version == written.version);
    assert!(!format!("{got:?}").contains("marker"));
    assert_eq!(store.list(Filter::all()).await.unwrap().records[0], got);
    assert_eq!(store.since(world(&["global-1-1"]), Filter::all()).await.unwrap().records[0], got);
    assert_eq!(store.watch(1).next().await.unwrap().changes, [Change::Put(got)]);
}

pub(crate) async fn a_private_value_is_kept_with_its_transaction_or_not_at_all(kit: &Kit) {
    let store = kit.store("east");
    let private = |value: &str| Write::Private {
        name: "place".to_owned(),
        value: SecretBytes::from(value.as_bytes().to_vec()),
    };
    let kept = async || store.secret_get("place").await.unwrap().map(|value| value.expose().to_vec());
    store.apply(vec![copy("global/a", "global-1-5", "1"), private("five")]).await.unwrap();
    assert_eq!(kept().await.as_deref(), Some(&b"five"[..]));
    // The copy is no copy: nothing of it happens.
    assert!(store.apply(vec![private("lost"), copy("east/a", "east-1-5", "1")]).await.is_err());
    assert_eq!(kept().await.as_deref(), Some(&b"five"[..]));
    store.apply(vec![private("alone")]).await.unwrap();
    assert_eq!(kept().await.as_deref(), Some(&b"alone"[..]));
}
