//! Decides which trust bundles of a zone are taken: none that is older than one that was, and none with the key of an
//! authority that another trust domain has.

use std::collections::{BTreeMap, BTreeSet};

use identity::Claims;
use model::kinds::{MeshTrust, ResourceSpec};
use model::{BundleNumber, Document, DocumentKey, MeshName, Record, TrustDomain, Version, ZoneName};
use store::{Store, Write};
use sync::Batch;
use sync::link::HostError;

/// By mesh and trust domain. What was once newer stays so when its document is gone.
pub type Newest = BTreeMap<(MeshName, TrustDomain), BundleNumber>;

/// The bundles that are held, to tell an older one or a stolen key from a good one.
pub struct Trusts {
    held: BTreeMap<DocumentKey, Bundle>,
    newest: Newest,
}

struct Bundle {
    version: Version,
    number: Option<BundleNumber>,
    claims: Claims,
}

impl Trusts {
    /// Of the meshes of which a batch has bundles. Their certificates are read once for all of it.
    pub fn new(trusts: &[Record], newest: &Newest, batch: &Batch) -> Self {
        let bundles = batch.entries.iter().filter_map(|entry| entry.key.parse::<DocumentKey>().ok());
        let bundles = bundles.filter(|key| key.kind.as_str() == MeshTrust::KIND.name);
        let meshes: BTreeSet<_> = bundles.map(|key| key.mesh).collect();
        let held = trusts.iter().filter(|record| meshes.contains(&record.key.mesh));
        let held = held.filter_map(|record| Some((record.key.clone(), bundle(record)?)));
        Self { held: held.collect(), newest: newest.clone() }
    }

    /// Takes a bundle in, so that the next one is judged beside it; other documents are none of its business.
    pub fn take(&mut self, record: &Record) -> Result<(), String> {
        let (Some(taken), Some(mesh)) = (bundle(record), &record.key.mesh) else { return Ok(()) };
        let domain = taken.claims.domain().clone();
        let held = self.held.get(&record.key);
        // One without a number, which somebody wrote, is older than none but that under its own name.
        let of_domain = self.newest.get(&(mesh.clone(), domain.clone())).filter(|_| record.bundle.is_some());
        let newest = held.and_then(|held| held.number).max(of_domain.copied());
        let is_held = held.is_some_and(|held| held.version == record.version);
        if !is_held && record.bundle < newest {
            return Err(format!(
                "it has {}, which is older than the newest that was taken of '{domain}', {}",
                number(record.bundle),
                number(newest)
            ));
        }
        if self.newest.len() >= MOST_NUMBERS && !self.newest.contains_key(&(mesh.clone(), domain.clone())) {
            return Err(format!("its zone has bundles of more than {MOST_NUMBERS} trust domains"));
        }
        let others = self.held.iter().filter(|(key, _)| **key != record.key && key.mesh == record.key.mesh);
        if let Some(problem) = taken.claims.problem(others.map(|(_, held)| &held.claims)) {
            return Err(problem.to_string());
        }
        self.held.insert(record.key.clone(), taken);
        if let Some(number) = record.bundle {
            let newest = self.newest.entry((mesh.clone(), domain)).or_insert(number);
            *newest = number.max(*newest);
        }
        Ok(())
    }

    /// Keeps the newest numbers, where they are newer than these.
    pub fn news(&self, before: &Newest, zone: &ZoneName) -> Option<Write> {
        if self.newest == *before {
            return None;
        }
        let numbers: Vec<_> = self.newest.iter().collect();
        let value = serde_json::to_vec(&numbers).expect("names and numbers are JSON").into();
        Some(Write::Private { name: numbers_name(zone), value })
    }
}

/// The most trust domains of whose bundles a zone's newest numbers are kept, over all meshes.
const MOST_NUMBERS: usize = 1000;

/// Reads the newest numbers that were taken of a zone's bundles. Another zone that the domain was given to counts for
/// itself.
pub async fn newest(store: &dyn Store, zone: &ZoneName) -> Result<Newest, HostError> {
    let Some(kept) = store.secret_get(&numbers_name(zone)).await? else { return Ok(Newest::new()) };
    let numbers: Vec<((MeshName, TrustDomain), BundleNumber)> = serde_json::from_slice(kept.expose())?;
    Ok(numbers.into_iter().collect())
}

/// The zones of which newest numbers are kept.
pub async fn numbered(store: &dyn Store) -> Result<BTreeSet<ZoneName>, store::Error> {
    let names = store.secret_names(NUMBERS).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(NUMBERS)?.parse().ok()).collect())
}

/// The zone was removed: one that comes under its name begins anew.
pub async fn forget_numbers(store: &dyn Store, zone: &ZoneName) -> Result<(), store::Error> {
    store.secret_delete(&numbers_name(zone)).await
}

fn numbers_name(zone: &ZoneName) -> String {
    format!("{NUMBERS}{zone}")
}

const NUMBERS: &str = "bundle-numbers/";

fn bundle(record: &Record) -> Option<Bundle> {
    if record.key.kind.as_str() != MeshTrust::KIND.name {
        return None;
    }
    let document = Document::from_record(record).ok()?;
    let trust = document.spec_as::<MeshTrust>()?;
    Some(Bundle {
        version: record.version.clone(),
        number: record.bundle,
        claims: Claims::read(&trust.trust_domain, &trust.ca_bundles.concat()),
    })
}

fn number(bundle: Option<BundleNumber>) -> String {
    match bundle {
        Some(bundle) => format!("number {}.{}", bundle.incarnation, bundle.n),
        None => "no number".to_owned(),
    }
}
