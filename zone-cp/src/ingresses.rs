//! The ingresses that registered with the zone: name to the address at which other zones dial them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use model::ResourceName;
use store::{SecretBytes, Store};
use tokio::sync::watch;

/// Kept in the store, beside the documents: an ingress stands for all meshes, so it is in none.
const NAME: &str = "ingresses";

pub struct Ingresses {
    known: watch::Sender<BTreeMap<ResourceName, SocketAddr>>,
    writing: tokio::sync::Mutex<()>,
}

impl Ingresses {
    pub async fn load(store: &dyn Store) -> anyhow::Result<Self> {
        let known = match store.secret_get(NAME).await? {
            Some(kept) => serde_json::from_slice(kept.expose())?,
            None => BTreeMap::new(),
        };
        Ok(Self { known: watch::Sender::new(known), writing: tokio::sync::Mutex::default() })
    }

    /// Durable when it returns.
    pub async fn register(
        &self,
        store: &dyn Store,
        name: ResourceName,
        address: SocketAddr,
    ) -> anyhow::Result<()> {
        let _one_at_a_time = self.writing.lock().await;
        let mut known = self.known.borrow().clone();
        if known.insert(name, address) != Some(address) {
            store.secret_put(NAME, SecretBytes::from(serde_json::to_vec(&known)?)).await?;
            self.known.send_replace(known);
        }
        Ok(())
    }

    /// An ingress that left for good is dialled no more.
    pub async fn forget(&self, store: &dyn Store, name: &ResourceName) -> anyhow::Result<()> {
        let _one_at_a_time = self.writing.lock().await;
        let mut known = self.known.borrow().clone();
        if known.remove(name).is_some() {
            store.secret_put(NAME, SecretBytes::from(serde_json::to_vec(&known)?)).await?;
            self.known.send_replace(known);
        }
        Ok(())
    }

    pub fn watch(&self) -> watch::Receiver<BTreeMap<ResourceName, SocketAddr>> {
        self.known.subscribe()
    }
}
