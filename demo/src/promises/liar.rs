//! A zone that joined as every other publishes what is not its own, among what is: the former is refused and told, the
//! latter flows, and nobody else notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use api::shapes::Page;
use api::status::MeshStatus;
use identity::{AUTHORITY_LIFETIME, ZoneCa};
use model::Origin;
use serde_json::{Value, json};

use super::{UpTo, eventually, every_pair_answers};
use crate::api_client::ApiClient;
use crate::liar::{Liar, bundle, document};
use crate::mesh::{LIMIT, Mesh, ZONES};

const ZONE: &str = "robber";
const OWN_DOMAIN: &str = "default.robber.mesh.local";
const EASTS_DOMAIN: &str = "default.east.mesh.local";

const OWN_BUNDLE: &str = "MeshTrust/default/robber//own";
const LIGHTHOUSE: &str = "MeshService/default/robber//lighthouse";
/// Said in one breath with all lies.
const BUOY: &str = "MeshService/default/robber//buoy";

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let liar = Liar::join(mesh, ZONE).await?;
    let kept = checked(mesh, &liar).await;
    let gone = liar.say(Vec::new(), &[OWN_BUNDLE, LIGHTHOUSE, BUOY]).await;
    liar.leave().await?;
    let api = mesh.api()?;
    eventually(LIMIT, || async { api.delete("/zones/robber").await.map(|_| ()) }).await?;
    let (lies, _) = (kept?, gone?);
    for zone in ZONES {
        let api = mesh.zone_api(zone)?;
        eventually(LIMIT, || has(&api, &[])).await.with_context(|| format!("{zone}, afterwards"))?;
    }
    Ok(format!("{lies} lies were refused and told, and what was honest beside them arrived"))
}

async fn checked(mesh: &Mesh, liar: &Liar) -> anyhow::Result<usize> {
    let before = UpTo::now(mesh);
    let honest = vec![
        bundle(document(OWN_BUNDLE, "robber-1-1", &trust(OWN_DOMAIN, &authority(OWN_DOMAIN)?))?, 2),
        document(LIGHTHOUSE, "robber-1-2", &service(OWN_DOMAIN))?,
    ];
    let refused = liar.say(honest, &[]).await?;
    ensure!(refused.is_empty(), "what is its own is refused: {refused:?}");
    everywhere(mesh, &[OWN_BUNDLE, LIGHTHOUSE]).await.context("what is its own")?;
    let others = others(mesh).await?;

    let (lies, removed) = lies(mesh).await?;
    let mut wanted: BTreeSet<String> = lies.iter().map(|entry| entry.key.clone()).collect();
    wanted.insert(removed.to_owned());
    let mut said = lies;
    said.push(document(BUOY, "robber-1-1003", &service(OWN_DOMAIN))?);
    let refused = liar.say(said, &[removed]).await?;
    let refused: BTreeSet<String> = refused.into_iter().map(|refused| refused.key).collect();
    ensure!(refused == wanted, "refused are {refused:?}, and should be {wanted:?}");
    everywhere(mesh, &[OWN_BUNDLE, LIGHTHOUSE, BUOY]).await.context("what is its own, beside lies")?;

    let status: MeshStatus = mesh.api()?.get("/status").await?;
    let its = status.zones.into_iter().find(|zone| zone.overview.name.as_str() == ZONE);
    let told = its.context("nobody knows it")?.refused.into_iter();
    let told: BTreeSet<String> =
        told.filter(|one| one.refusal.reporter == Origin::Global).map(|one| one.document).collect();
    ensure!(told == wanted, "an operator hears of {told:?}, and should hear of {wanted:?}");
    let now = self::others(mesh).await?;
    ensure!(now == others, "others had {others:?}, and have {now:?}");
    every_pair_answers(mesh, "/in-spite-of-lies", |_| true).await?;
    before.unfailed_since(mesh, |_| true)?;
    Ok(wanted.len())
}

/// Documents that it may not publish, and the key of one that it may not take away.
async fn lies(mesh: &Mesh) -> anyhow::Result<(Vec<sync::Entry>, &'static str)> {
    let trusts: Page<Value> = mesh.api()?.get("/meshtrusts?zone=west").await?;
    let stolen = trusts.items.first().context("west has no bundle")?;
    let stolen = stolen["spec"]["caBundles"][0]["pem"]["value"].as_str().context("west's is no PEM")?;
    let everybody = json!({"rules": [{"default": {"allow": [{"source": {}}]}}]});
    let older =
        bundle(document(OWN_BUNDLE, "robber-1-1004", &trust(OWN_DOMAIN, &authority(OWN_DOMAIN)?))?, 1);
    let entry = |key: &str, version: &str, spec: Value| document(key, version, &spec);
    let numbered = |entry| bundle(entry, 3);
    let lies = vec![
        // Another's trust domain.
        numbered(entry(
            "MeshTrust/default/robber//east",
            "robber-1-1005",
            trust(EASTS_DOMAIN, &authority(EASTS_DOMAIN)?),
        )?),
        // Another's authority.
        numbered(entry("MeshTrust/default/robber//stolen", "robber-1-1006", trust(OWN_DOMAIN, stolen))?),
        // An older bundle than the one that counts.
        older,
        // Documents of others, later than those that are there.
        entry("MeshService/default/east//catalog", "east-1-1500", service(OWN_DOMAIN))?,
        entry("MeshTrafficPermission/default/global//shop", "global-1-1500", everybody)?,
        // Another's identity: one of many places where the catalog would be.
        entry("MeshService/default/robber//catalog", "robber-1-1007", service(EASTS_DOMAIN))?,
    ];
    Ok((lies, "MeshService/default/west//cart"))
}

fn service(domain: &str) -> Value {
    let id = format!("spiffe://{domain}/workload/catalog");
    json!({"ports": [{"name": "http", "port": 8080}], "identities": [{"type": "SpiffeID", "value": id}]})
}

fn trust(domain: &str, ca: &str) -> Value {
    json!({"trustDomain": domain, "caBundles": [{"type": "Pem", "pem": {"value": ca}}]})
}

/// A new one.
fn authority(domain: &str) -> anyhow::Result<String> {
    Ok(ZoneCa::create(domain.parse()?, AUTHORITY_LIFETIME, SystemTime::now())?.bundle_pem())
}

/// Waits until every zone has these of the liar, and no more.
async fn everywhere(mesh: &Mesh, keys: &[&str]) -> anyhow::Result<()> {
    for zone in ZONES {
        let api = mesh.zone_api(zone)?;
        eventually(LIMIT, || has(&api, keys)).await.with_context(|| zone.to_owned())?;
    }
    Ok(())
}

async fn has(api: &ApiClient, keys: &[&str]) -> anyhow::Result<()> {
    let all = documents(api).await?.into_keys();
    let its: BTreeSet<String> = all.filter(|key| key.split('/').nth(2) == Some(ZONE)).collect();
    let wanted: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    ensure!(its == wanted, "it has {its:?}, and should have {wanted:?}");
    Ok(())
}

/// What everybody has that is not the liar's.
async fn others(mesh: &Mesh) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
    let mut all = Vec::new();
    for api in [mesh.api()?, mesh.zone_api("east")?, mesh.zone_api("west")?] {
        let mut documents = documents(&api).await?;
        documents.retain(|key, _| key.split('/').nth(2) != Some(ZONE));
        all.push(documents);
    }
    Ok(all)
}

/// The revisions of what a zone could lie about, by key.
async fn documents(api: &ApiClient) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for plural in ["meshservices", "meshtrusts", "meshtrafficpermissions"] {
        let page: Page<Value> = api.get(&format!("/{plural}?size=1000")).await?;
        for item in page.items {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, mesh, name) = (text(&item["type"]), text(&item["mesh"]), text(&item["name"]));
            let origin = text(&item["status"]["origin"]);
            found.insert(format!("{kind}/{mesh}/{origin}//{name}"), text(&item["status"]["revision"]));
        }
    }
    Ok(found)
}
