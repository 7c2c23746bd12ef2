//! What is known of a proxy beyond its sessions: until when it may act on what it was once told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use store::{SecretBytes, Store};

use crate::planner::ProxyId;

/// Durable, since a proxy that nobody sees may outlive a restart of its zone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Life {
    /// Seconds since 1970.
    pub leaf_ends: u64,
    /// It said that it leaves for good.
    pub drained: bool,
}

/// Clocks differ.
const LEEWAY: Duration = Duration::from_secs(5 * 60);

impl Life {
    pub fn until(leaf_ends: SystemTime) -> Self {
        let leaf_ends = leaf_ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { leaf_ends, drained: false }
    }

    /// Whether the proxy, if it still runs, is believed by others.
    pub fn counts(&self, now: SystemTime) -> bool {
        !self.drained && now <= UNIX_EPOCH + Duration::from_secs(self.leaf_ends) + LEEWAY
    }
}

fn name(proxy: &ProxyId) -> String {
    format!("life/{proxy}")
}

/// None for a proxy that never had a certificate.
pub async fn read(store: &dyn Store, proxy: &ProxyId) -> anyhow::Result<Option<Life>> {
    let kept = store.secret_get(&name(proxy)).await?;
    Ok(kept.map(|kept| serde_json::from_slice(kept.expose())).transpose()?)
}

/// Of a proxy that is gone for good.
pub async fn forget(store: &dyn Store, proxy: &ProxyId) -> Result<(), store::Error> {
    store.secret_delete(&name(proxy)).await
}

pub async fn write(store: &dyn Store, proxy: &ProxyId, life: Life) -> anyhow::Result<()> {
    Ok(store.secret_put(&name(proxy), SecretBytes::from(serde_json::to_vec(&life)?)).await?)
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn what_is_known_of_a_proxy_is_kept_until_it_is_gone_for_good() {
        let store = MemoryStore::new("east".parse().unwrap());
        let proxy = ProxyId { mesh: "default".parse().unwrap(), name: "web-1".parse().unwrap() };
        let life = Life { leaf_ends: 7, drained: true };
        write(&*store, &proxy, life).await.unwrap();
        assert_eq!(read(&*store, &proxy).await.unwrap(), Some(life));
        forget(&*store, &proxy).await.unwrap();
        assert_eq!(read(&*store, &proxy).await.unwrap(), None);
    }
}
