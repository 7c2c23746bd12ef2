//! The last word of other zones on their services, kept beside the documents: a control plane that starts while nobody
//! can tell it of them knows them all the same, and takes no endpoint from its proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::DestinationId;
use snapshot::endpoints::Exports;
use store::{SecretBytes, Store};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::hub::Hub;
use crate::planner::Input;

/// By destination; of those that somebody in this zone asks for.
pub type LastWords = BTreeMap<DestinationId, Exports>;

/// Words may change often: what came within so long before a crash may be lost, and is told anew by the global.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Where they stand among the private values of the store.
const NAME: &str = "last-words";

/// Tells the planner what was kept, before anybody asks it.
pub async fn load(store: &dyn Store, hub: &Arc<Hub>) -> Result<(), store::Error> {
    hub.input(Input::Kept(read(store).await?));
    Ok(())
}

/// Keeps every new word, and the last ones as it stops.
pub async fn run(store: Arc<dyn Store>, hub: Arc<Hub>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = hub.ticks();
    let mut kept = hub.last_words();
    loop {
        let words = hub.last_words();
        if !Arc::ptr_eq(&words, &kept) {
            match write(&*store, &words).await {
                Ok(()) => kept = words,
                Err(error) => warn!(%error, "the last words of other zones cannot be kept; trying again"),
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => continue,
            changed = ticks.changed() => changed?,
        }
        let _ = time::timeout(AT_MOST_EVERY, stop.cancelled()).await;
    }
}

/// What cannot be read is as if nobody had said it: they say it again.
async fn read(store: &dyn Store) -> Result<LastWords, store::Error> {
    let Some(kept) = store.secret_get(NAME).await? else { return Ok(LastWords::new()) };
    let words = serde_json::from_slice(kept.expose());
    Ok(words.unwrap_or_else(|error| {
        warn!(%error, "the last words of other zones cannot be read");
        LastWords::new()
    }))
}

async fn write(store: &dyn Store, words: &LastWords) -> Result<(), store::Error> {
    let words = serde_json::to_vec(words).expect("destinations are text");
    store.secret_put(NAME, SecretBytes::from(words)).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn words_are_kept_as_they_were_said_and_damaged_ones_are_none() {
        let store = MemoryStore::new("east".parse().unwrap());
        assert_eq!(read(&*store).await.unwrap(), LastWords::new());
        let identity = "spiffe://default.west.mesh.local/workload/catalog";
        let instances = json!([{ "sni": "x.y", "identity": identity, "ready": true, "weight": 1 }]);
        let word = serde_json::from_value(json!({ "instances": instances })).unwrap();
        let words = LastWords::from([("ms_default_west__catalog_http".parse().unwrap(), word)]);
        write(&*store, &words).await.unwrap();
        assert_eq!(read(&*store).await.unwrap(), words);
        store.secret_put(NAME, SecretBytes::from(b"{".to_vec())).await.unwrap();
        assert_eq!(read(&*store).await.unwrap(), LastWords::new());
    }
}
