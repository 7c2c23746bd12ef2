//! What a control plane that starts remembers of the one before it, kept beside the documents: the last word of other
//! zones on their services, and which of its own proxies did not count. So whoever starts while nobody can tell it of
//! them takes no endpoint from its proxies, and gives them none back that was gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::DestinationId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use snapshot::endpoints::Exports;
use store::{SecretBytes, Store};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::hub::Hub;
use crate::planner::{Input, ProxyId};

/// By destination; of those that somebody in this zone asks for.
pub type LastWords = BTreeMap<DestinationId, Exports>;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Another one each time that something in it has changed.
    pub words: Arc<LastWords>,
    /// The proxies that have a Dataplane and are not there.
    pub missed: BTreeSet<ProxyId>,
}

/// What is kept may change often: what came within so long before a crash may be lost, and is told anew.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Where they stand among the private values of the store.
const WORDS: &str = "last-words";
const MISSED: &str = "missed-proxies";

/// Tells the planner what was kept, before anybody asks it.
pub async fn load(store: &dyn Store, hub: &Arc<Hub>) -> Result<Memory, store::Error> {
    let words = Arc::new(read(store, WORDS).await?);
    let kept = Memory { words, missed: read(store, MISSED).await? };
    hub.input(Input::Kept(kept.clone()));
    Ok(kept)
}

/// Keeps whatever is not `kept` yet, and the last of it as it stops.
pub async fn run(
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    mut kept: Memory,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = hub.ticks();
    loop {
        let now = hub.memory();
        match keep(&*store, &kept, &now).await {
            Ok(()) => kept = now,
            Err(error) => warn!(%error, "what the next start is to know cannot be kept; trying again"),
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

/// Writes what differs.
async fn keep(store: &dyn Store, kept: &Memory, now: &Memory) -> Result<(), store::Error> {
    if !Arc::ptr_eq(&kept.words, &now.words) {
        write(store, WORDS, &*now.words).await?;
    }
    if kept.missed != now.missed {
        write(store, MISSED, &now.missed).await?;
    }
    Ok(())
}

/// What cannot be read is as if nobody had said it: they say it again.
pub(crate) async fn read<T: DeserializeOwned + Default>(
    store: &dyn Store,
    name: &str,
) -> Result<T, store::Error> {
    let Some(kept) = store.secret_get(name).await? else { return Ok(T::default()) };
    let read = serde_json::from_slice(kept.expose());
    Ok(read.unwrap_or_else(|error| {
        warn!(name, %error, "what the last start kept cannot be read");
        T::default()
    }))
}

pub(crate) async fn write(store: &dyn Store, name: &str, value: &impl Serialize) -> Result<(), store::Error> {
    let bytes = serde_json::to_vec(value).expect("its keys are text");
    store.secret_put(name, SecretBytes::from(bytes)).await
}

#[cfg(test)]
mod tests {
    use control::Clock;
    use runtime::Tasks;
    use serde_json::json;
    use snapshot::handle::Salt;
    use store::MemoryStore;

    use super::*;
    use crate::planner::Planner;

    #[tokio::test]
    async fn a_proxy_that_is_gone_by_the_next_start_is_missed_no_more() {
        let store = MemoryStore::new("east".parse().unwrap());
        let gone = ProxyId { mesh: "default".parse().unwrap(), name: "web-1".parse().unwrap() };
        write(&*store, MISSED, &BTreeSet::from([gone])).await.unwrap();
        let zone: model::ZoneName = "east".parse().unwrap();
        let (tasks, planner) = (Tasks::new(), Planner::new(zone.clone(), Salt::new(&[7; 32])));
        let hub = Hub::new(zone, planner, None, tasks.children(), Clock::system());
        let kept = load(&*store, &hub).await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        run(store.clone(), hub, kept, stop).await.unwrap();
        assert_eq!(read::<BTreeSet<ProxyId>>(&*store, MISSED).await.unwrap(), BTreeSet::new());
    }

    #[tokio::test]
    async fn words_are_kept_as_they_were_said_and_damaged_ones_are_none() {
        let store = MemoryStore::new("east".parse().unwrap());
        assert_eq!(read::<LastWords>(&*store, WORDS).await.unwrap(), LastWords::new());
        let identity = "spiffe://default.west.mesh.local/workload/catalog";
        let instances = json!([{ "sni": "x.y", "identity": identity, "ready": true, "weight": 1 }]);
        let word = serde_json::from_value(json!({ "instances": instances })).unwrap();
        let words = LastWords::from([("ms_default_west__catalog_http".parse().unwrap(), word)]);
        let missed = ProxyId { mesh: "default".parse().unwrap(), name: "web-1".parse().unwrap() };
        let now = Memory { words: Arc::new(words), missed: BTreeSet::from([missed]) };
        keep(&*store, &Memory::default(), &now).await.unwrap();
        assert_eq!(read::<LastWords>(&*store, WORDS).await.unwrap(), *now.words);
        assert_eq!(read::<BTreeSet<ProxyId>>(&*store, MISSED).await.unwrap(), now.missed);
        store.secret_put(WORDS, SecretBytes::from(b"{".to_vec())).await.unwrap();
        assert_eq!(read::<LastWords>(&*store, WORDS).await.unwrap(), LastWords::new());
    }
}
