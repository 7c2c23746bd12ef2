//! The zone's own authorities: one for each mesh and trust domain, sealed in the zone's store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use control::Clock;
use identity::{AUTHORITY_LIFETIME, ZoneCa};
use model::kinds::MeshTrust;
use model::{BundleNumber, MeshName, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use store::{SecretBytes, Store};
use tokio::sync::watch;
use tracing::info;

use crate::generate::PublicAuthority;

/// By mesh and trust domain. A key belongs to one trust domain for life.
pub struct Authorities {
    clock: Clock,
    known: Mutex<BTreeMap<(MeshName, TrustDomain), Arc<Authority>>>,
    /// Certificates of authorities that these came after, in PEM: who was certified by them is still believed.
    earlier: Mutex<BTreeMap<(MeshName, TrustDomain), Vec<String>>>,
    changed: watch::Sender<()>,
    /// Held while one is made, so that it is made once and with all that is known before.
    making: tokio::sync::Mutex<()>,
}

struct Authority {
    ca: ZoneCa,
    number: BundleNumber,
}

impl Authorities {
    pub fn new(clock: Clock) -> Self {
        let (known, earlier, making) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { clock, known, earlier, changed: watch::Sender::new(()), making }
    }

    /// Loads the authority of a trust domain from the store, or makes it and keeps it there.
    pub async fn ensure(
        &self,
        store: &dyn Store,
        mesh: &MeshName,
        domain: &TrustDomain,
    ) -> anyhow::Result<()> {
        let _one_at_a_time = self.making.lock().await;
        let key = (mesh.clone(), domain.clone());
        if self.known().contains_key(&key) {
            return Ok(());
        }
        // The mesh stands in it as well: a trust domain may belong to several meshes of a zone, and
        // each has a key of its own.
        let name = format!("workload-authority/{mesh}/{domain}");
        let Earlier { bundles, incarnation } = Earlier::load(store, mesh, domain).await?;
        let authority = match store.secret_get(&name).await? {
            Some(sealed) => {
                Authority::read(&sealed).with_context(|| format!("reading the authority of {domain}"))?
            }
            None => {
                let now = self.clock.now();
                let ca = ZoneCa::create(domain.clone(), AUTHORITY_LIFETIME, now)?;
                // Later than whatever was published before, as far as that is known.
                let by_clock = now.duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
                let incarnation = by_clock.max(incarnation.saturating_add(1));
                let authority = Authority { ca, number: BundleNumber { incarnation, n: 1 } };
                store.secret_put(&name, authority.to_secret()).await?;
                authority
            }
        };
        self.earlier().insert(key.clone(), bundles);
        self.known().insert(key, Arc::new(authority));
        Ok(())
    }

    /// Keeps what others believed of a trust domain before this store began: its certificates stay in the bundle
    /// beside those of the new authority, until they end, and the new bundle's number is later than `number`.
    pub async fn keep_earlier(
        &self,
        store: &dyn Store,
        mesh: &MeshName,
        trust: &MeshTrust,
        number: BundleNumber,
    ) -> anyhow::Result<()> {
        let _one_at_a_time = self.making.lock().await;
        let domain = &trust.trust_domain;
        let mut earlier = Earlier::load(store, mesh, domain).await?;
        for bundle in &trust.ca_bundles {
            if !earlier.bundles.contains(bundle) {
                earlier.bundles.push(bundle.clone());
            }
        }
        earlier.incarnation = earlier.incarnation.max(number.incarnation);
        let bytes = serde_json::to_vec(&earlier)?;
        store.secret_put(&Earlier::name(mesh, domain), bytes.into()).await?;
        info!(%mesh, %domain, bundles = earlier.bundles.len(), "the bundle before the new authority is believed as well");
        self.earlier().insert((mesh.clone(), domain.clone()), earlier.bundles);
        self.changed.send_replace(());
        Ok(())
    }

    /// Changes when more is to be published of an authority that is there.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What others need to believe them.
    pub fn public(&self) -> BTreeMap<(MeshName, TrustDomain), PublicAuthority> {
        let known = self.known();
        let earlier = self.earlier();
        let public = |(key, authority): (&(MeshName, TrustDomain), &Arc<Authority>)| {
            let own = authority.ca.bundle_pem();
            let others = earlier.get(key).into_iter().flatten().filter(|bundle| **bundle != own).cloned();
            let bundles = [own.clone()].into_iter().chain(others).collect();
            (key.clone(), PublicAuthority { bundles, number: authority.number })
        };
        known.iter().map(public).collect()
    }

    /// When the certificate of each ends, with what it is the authority of.
    pub fn ends(&self) -> Vec<(String, SystemTime)> {
        let known = self.known();
        let end = |((mesh, domain), authority): (&(MeshName, TrustDomain), &Arc<Authority>)| {
            (format!("authority of {domain} in mesh {mesh}"), authority.ca.validity().not_after)
        };
        known.iter().map(end).collect()
    }

    /// A certificate of `id`, in PEM, leaf first.
    pub fn issue(
        &self,
        mesh: &MeshName,
        id: &SpiffeId,
        request: &[u8],
        lifetime: Duration,
    ) -> anyhow::Result<String> {
        let known = self.known().get(&(mesh.clone(), id.trust_domain())).cloned();
        let authority =
            known.with_context(|| format!("this zone has no authority for {}", id.trust_domain()))?;
        let chain = authority.ca.issue(request, id, lifetime, self.clock.now())?;
        Ok(identity::certificates_to_pem(&chain))
    }

    fn earlier(&self) -> std::sync::MutexGuard<'_, BTreeMap<(MeshName, TrustDomain), Vec<String>>> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<(MeshName, TrustDomain), Arc<Authority>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was believed of a trust domain before this store began.
#[derive(Default, Deserialize, Serialize)]
struct Earlier {
    /// Certificates in PEM.
    bundles: Vec<String>,
    /// The last of its bundles' numbers.
    incarnation: u64,
}

impl Earlier {
    fn name(mesh: &MeshName, domain: &TrustDomain) -> String {
        format!("earlier-bundles/{mesh}/{domain}")
    }

    async fn load(store: &dyn Store, mesh: &MeshName, domain: &TrustDomain) -> anyhow::Result<Self> {
        let kept = store.secret_get(&Self::name(mesh, domain)).await?;
        let kept = kept.map(|kept| serde_json::from_slice(kept.expose())).transpose()?;
        Ok(kept.unwrap_or_default())
    }
}

impl Authority {
    /// The number in the first line, then key and certificate.
    fn to_secret(&self) -> SecretBytes {
        let BundleNumber { incarnation, n } = self.number;
        SecretBytes::from(format!("{incarnation} {n}\n{}", *self.ca.to_pem()).into_bytes())
    }

    fn read(sealed: &SecretBytes) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(sealed.expose())?;
        let (number, pem) = text.split_once('\n').context("it has no number")?;
        let (incarnation, n) = number.split_once(' ').context("its number is not two numbers")?;
        let number = BundleNumber { incarnation: incarnation.parse()?, n: n.parse()? };
        Ok(Self { ca: ZoneCa::from_pem(pem)?, number })
    }
}
