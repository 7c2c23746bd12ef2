//! The zone's own authorities: one for each mesh and trust domain, sealed in the zone's store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use identity::{AUTHORITY_LIFETIME, ZoneCa};
use model::{BundleNumber, MeshName, SpiffeId, TrustDomain};
use store::{SecretBytes, Store};

use crate::generate::PublicAuthority;

/// By mesh and trust domain. A key belongs to one trust domain for life.
#[derive(Default)]
pub struct Authorities {
    known: Mutex<BTreeMap<(MeshName, TrustDomain), Arc<Authority>>>,
}

struct Authority {
    ca: ZoneCa,
    number: BundleNumber,
    /// Certificates of authorities that this one came after, in PEM: who was certified by them is still believed.
    earlier: Vec<String>,
}

impl Authorities {
    /// Loads the authority of a trust domain from the store, or makes it and keeps it there.
    pub async fn ensure(
        &self,
        store: &dyn Store,
        mesh: &MeshName,
        domain: &TrustDomain,
    ) -> anyhow::Result<()> {
        let key = (mesh.clone(), domain.clone());
        if self.known().contains_key(&key) {
            return Ok(());
        }
        // The mesh stands in it as well: a trust domain may belong to several meshes of a zone, and
        // each has a key of its own.
        let name = format!("workload-authority/{mesh}/{domain}");
        let earlier = earlier(store, mesh, domain).await?;
        let authority = match store.secret_get(&name).await? {
            Some(sealed) => Authority::read(&sealed, earlier)
                .with_context(|| format!("reading the authority of {domain}"))?,
            None => {
                let now = SystemTime::now();
                let ca = ZoneCa::create(domain.clone(), AUTHORITY_LIFETIME, now)?;
                // A zone that lost its store begins a later incarnation without having to remember one.
                let incarnation = now.duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
                let authority = Authority { ca, number: BundleNumber { incarnation, n: 1 }, earlier };
                store.secret_put(&name, authority.to_secret()).await?;
                authority
            }
        };
        self.known().insert(key, Arc::new(authority));
        Ok(())
    }

    /// Keeps what others believed of a trust domain before this store began: its certificates stay in the bundle
    /// beside those of the new authority, until they end.
    pub async fn keep_earlier(
        &self,
        store: &dyn Store,
        mesh: &MeshName,
        domain: &TrustDomain,
        bundles: &[String],
    ) -> anyhow::Result<()> {
        let mut all = earlier(store, mesh, domain).await?;
        let own = self.public().remove(&(mesh.clone(), domain.clone())).map(|public| public.bundles);
        let own = own.unwrap_or_default();
        all.extend(bundles.iter().filter(|pem| !own.contains(pem)).cloned());
        all.dedup();
        store.secret_put(&earlier_name(mesh, domain), serde_json::to_vec(&all)?.into()).await?;
        let was_known = self.known().remove(&(mesh.clone(), domain.clone())).is_some();
        if was_known { self.ensure(store, mesh, domain).await } else { Ok(()) }
    }

    /// What others need to believe them.
    pub fn public(&self) -> BTreeMap<(MeshName, TrustDomain), PublicAuthority> {
        let public = |authority: &Authority| PublicAuthority {
            bundles: [authority.ca.bundle_pem()].into_iter().chain(authority.earlier.clone()).collect(),
            number: authority.number,
        };
        self.known().iter().map(|(key, authority)| (key.clone(), public(authority))).collect()
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
        let chain = authority.ca.issue(request, id, lifetime, SystemTime::now())?;
        Ok(identity::certificates_to_pem(&chain))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<(MeshName, TrustDomain), Arc<Authority>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn earlier_name(mesh: &MeshName, domain: &TrustDomain) -> String {
    format!("earlier-bundles/{mesh}/{domain}")
}

async fn earlier(store: &dyn Store, mesh: &MeshName, domain: &TrustDomain) -> anyhow::Result<Vec<String>> {
    let kept = store.secret_get(&earlier_name(mesh, domain)).await?;
    let kept = kept.map(|kept| serde_json::from_slice(kept.expose())).transpose()?;
    Ok(kept.unwrap_or_default())
}

impl Authority {
    /// The number in the first line, then key and certificate.
    fn to_secret(&self) -> SecretBytes {
        let BundleNumber { incarnation, n } = self.number;
        SecretBytes::from(format!("{incarnation} {n}\n{}", *self.ca.to_pem()).into_bytes())
    }

    fn read(sealed: &SecretBytes, earlier: Vec<String>) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(sealed.expose())?;
        let (number, pem) = text.split_once('\n').context("it has no number")?;
        let (incarnation, n) = number.split_once(' ').context("its number is not two numbers")?;
        let number = BundleNumber { incarnation: incarnation.parse()?, n: n.parse()? };
        Ok(Self { ca: ZoneCa::from_pem(pem)?, number, earlier })
    }
}
