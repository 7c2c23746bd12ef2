//! Decides what of a zone's own documents is taken over: a zone speaks for itself alone.
//!
//! A document that is refused keeps its last accepted version in force, and disturbs no other.

use std::collections::{BTreeMap, BTreeSet};

use control::questions::{HeldAnswer, HeldDocument};
use model::kinds::{self, MeshService, MeshTrust};
use model::{Document, DocumentKey, MeshName, Origin, Point, Record, TrustDomain, Version, World, ZoneName};
use store::{MAX_DOCUMENT, Write};
use sync::{Batch, Refused};

use crate::bundles::{Newest, Trusts};

/// What a judgement depends on.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The trust domains that were given to the zone, beside those that are its own by their name.
    pub trust_domains: Vec<TrustDomain>,
    /// Every trust bundle that is held, of all origins.
    pub trusts: Vec<Record>,
    /// The newest numbers that were ever taken of the zone's bundles.
    pub newest: Newest,
    /// Up to where the zone was heard.
    pub heard: Option<Point>,
    /// The keys of all documents of the zone that are held; needed for a whole batch only.
    pub held: BTreeSet<DocumentKey>,
    /// The versions that are held of what a batch has that is not whole.
    pub versions: BTreeMap<DocumentKey, Version>,
}

/// What becomes of a batch: to be written as one, with the documents that were refused.
#[derive(Debug)]
pub struct Judged {
    pub writes: Vec<Write>,
    pub refused: Vec<Refused>,
    /// The zone's point afterwards.
    pub world: World,
}

/// Judges a batch of a zone, entry by entry. None if it does not say how far it leads.
pub fn judge(batch: Batch, zone: &ZoneName, standing: &Standing) -> Option<Judged> {
    let origin = Origin::Zone(zone.clone());
    let upto = batch.world.point(&origin)?;
    // Of other origins a zone has nothing to say.
    let world: World = [(origin.clone(), upto)].into_iter().collect();
    let mut trusts = Trusts::new(&standing.trusts, &standing.newest, &batch);
    let mut stay = BTreeSet::new();
    let (mut writes, mut refused) = (Vec::new(), Vec::new());
    if batch.whole && standing.heard.is_some_and(|heard| heard.epoch < upto.epoch) {
        // Whatever numbers its documents had in a history that no longer counts.
        writes.push(Write::Reset(origin.clone()));
    }
    for entry in batch.entries {
        let (key, version) = (entry.key.clone(), entry.version.clone());
        // What is refused is still there: its last good version stays in force.
        stay.extend(key.parse::<DocumentKey>().ok());
        let record = Record::try_from(entry).map_err(|error| error.to_string());
        let judged = record.and_then(|record| {
            check(&record, zone, upto, &standing.trust_domains)?;
            if !batch.whole && comes_late(&record, standing) {
                return Err("it was written before what was heard of its zone already".to_owned());
            }
            trusts.take(&record)?;
            Ok(record)
        });
        match judged {
            Ok(record) => writes.push(Write::Copy(record)),
            Err(reason) => refused.push(Refused::new(key, version, reason)),
        }
    }
    let mut leave = |key: DocumentKey| {
        let version = Version { origin: origin.clone(), point: upto };
        writes.push(Write::Forget { key, version });
    };
    for text in batch.removed {
        match text.parse::<DocumentKey>() {
            Ok(key) if key.origin == origin => leave(key),
            _ => refused.push(Refused::new(text, None, not_theirs(zone))),
        }
    }
    if batch.whole {
        standing.held.iter().filter(|key| !stay.contains(*key)).cloned().for_each(leave);
        // Zones may hold more of it than this store knows of, if an older copy of it was put back.
        writes.push(Write::Whole(origin.clone()));
    }
    writes.extend(trusts.news(&standing.newest, zone));
    writes.extend([Write::Retell(origin.clone()), Write::Advance(world.clone())]);
    Some(Judged { writes, refused, world })
}

/// Whether a zone may publish this document.
fn check(record: &Record, zone: &ZoneName, upto: Point, given: &[TrustDomain]) -> Result<(), String> {
    let Record { key, version, .. } = record;
    let origin = Origin::Zone(zone.clone());
    if key.origin != origin || version.origin != origin {
        return Err(not_theirs(zone));
    }
    if version.point > upto {
        return Err(format!("{version} is later than its batch"));
    }
    if record.bytes.len() > MAX_DOCUMENT {
        return Err(format!("it has more than {} KiB", MAX_DOCUMENT / 1024));
    }
    if record.secret {
        return Err("secrets do not travel".to_owned());
    }
    // What only newer programs know is carried as it came.
    let Some(kind) = kinds::by_name(key.kind.as_str()) else { return Ok(()) };
    if !kind.travels.up {
        return Err(format!("{kind} documents do not travel from zones"));
    }
    if kind.is_mesh_scoped() != key.mesh.is_some() {
        return Err(format!(
            "{kind} documents stand {} a mesh",
            if kind.is_mesh_scoped() { "in" } else { "outside of" }
        ));
    }
    let document = Document::from_record(record).map_err(|error| error.to_string())?;
    let mesh = key.mesh.as_ref();
    if let Some(trust) = document.spec_as::<MeshTrust>() {
        owns(zone, mesh, &trust.trust_domain, given)?;
    }
    if let Some(service) = document.spec_as::<MeshService>() {
        for id in &service.identities {
            owns(zone, mesh, &id.trust_domain(), given)?;
        }
    }
    Ok(())
}

/// Whether a difference has what an earlier one had to have: to take it would make everything be sent anew to
/// everybody, who cannot be told of it by numbers. One that was sent before it was acknowledged comes again.
fn comes_late(record: &Record, standing: &Standing) -> bool {
    let is_held = standing.versions.get(&record.key).is_some_and(|held| record.version.point <= held.point);
    !is_held && standing.heard.is_some_and(|heard| record.version.point <= heard)
}

fn not_theirs(zone: &ZoneName) -> String {
    format!("zone '{zone}' speaks for its own documents alone")
}

fn owns(
    zone: &ZoneName,
    mesh: Option<&MeshName>,
    domain: &TrustDomain,
    given: &[TrustDomain],
) -> Result<(), String> {
    if given.contains(domain) || domain.default_owner() == mesh.map(|mesh| (mesh.clone(), zone.clone())) {
        return Ok(());
    }
    Err(format!(
        "trust domain '{domain}' is not zone '{zone}'s: its own are <mesh>.{zone}.mesh.local, and those in \
         trustDomains of its Zone"
    ))
}

/// How many bytes one answer has as JSON, unless a single document needs more, which is at most twice as much.
const PAGE: usize = 1 << 20;

/// The documents of a zone after `after`, a page of them, for the zone itself. `held` is in the order of the keys' text.
pub fn page(held: Vec<Record>, after: Option<&DocumentKey>) -> HeldAnswer {
    let after = after.map(ToString::to_string);
    let rest =
        held.into_iter().filter(|record| after.as_ref().is_none_or(|after| record.key.to_string() > *after));
    let (mut items, mut size) = (Vec::new(), 0);
    for record in rest {
        // What is no text is no document, and was not taken over.
        let Ok(document) = String::from_utf8(record.bytes.to_vec()) else { continue };
        let Record { key, requires, bundle, .. } = record;
        let item = HeldDocument { key, requires, bundle, document };
        size += serde_json::to_vec(&item).map_or(0, |item| item.len());
        if size > PAGE && !items.is_empty() {
            let next = items.last().map(|last: &HeldDocument| last.key.clone());
            return HeldAnswer { items, next };
        }
        items.push(item);
    }
    HeldAnswer { items, next: None }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use identity::ZoneCa;
    use model::BundleNumber;
    use serde_json::json;
    use store::{Filter, MemoryStore};
    use sync::Entry;

    use super::*;
    use crate::bundles::{forget_numbers, newest};

    fn east() -> ZoneName {
        "east".parse().unwrap()
    }

    fn entry(key: &str, revision: u64, spec: serde_json::Value) -> Entry {
        let key: DocumentKey = key.parse().unwrap();
        let mut body = json!({ "type": key.kind, "name": key.name, "spec": spec });
        if let Some(mesh) = &key.mesh {
            body["mesh"] = json!(mesh);
        }
        let version = Version::new(key.origin.clone(), 1, revision);
        let bytes = serde_json::to_vec(&body).unwrap().into();
        Record { key, version, secret: false, requires: vec![], bundle: None, bytes }.into()
    }

    fn service(key: &str, domain: &str) -> Entry {
        let id = format!("spiffe://{domain}/workload/web");
        entry(key, 5, json!({"ports": [{"port": 80}], "identities": [{"type": "SpiffeID", "value": id}]}))
    }

    /// A bundle with the authority of `ca` that claims to be of `domain`.
    fn trust(key: &str, domain: &str, ca: &str, n: u64) -> Entry {
        let spec = json!({"trustDomain": domain, "caBundles": [{"type": "Pem", "pem": {"value": ca}}]});
        Entry { bundle: Some(BundleNumber { incarnation: 1, n }), ..entry(key, 5 + n, spec) }
    }

    fn ca(domain: &str) -> String {
        ZoneCa::create(domain.parse().unwrap(), identity::AUTHORITY_LIFETIME, SystemTime::now())
            .unwrap()
            .bundle_pem()
    }

    fn batch(entries: Vec<Entry>) -> Batch {
        let upto = Point { epoch: 1, revision: 50 };
        let world = [(Origin::Zone(east()), upto), (Origin::Global, upto)].into_iter().collect();
        Batch { entries, world, ..Batch::default() }
    }

    #[test]
    fn s36_a_zone_speaks_for_itself_alone_and_the_rest_flows() {
        let standing =
            Standing { trust_domains: vec!["bank.example".parse().unwrap()], ..Standing::default() };
        let (own, given) = (ca("default.east.mesh.local"), ca("bank.example"));
        let stolen = ca("default.west.mesh.local");
        let east_service = "MeshService/default/east//web";
        let late =
            Entry { version: Some("east-1-51".parse().unwrap()), ..service(east_service, "bank.example") };
        let relabelled =
            Entry { version: Some("west-1-5".parse().unwrap()), ..service(east_service, "bank.example") };
        let secret = Entry { secret: true, ..service(east_service, "bank.example") };
        let broken = entry(east_service, 5, json!({"ports": [{"port": 0}]}));
        let key = "MeshTrust/default/east//t";
        let cases = [
            ("its service", service(east_service, "default.east.mesh.local"), true),
            ("its service, with a given domain", service(east_service, "bank.example"), true),
            ("another zone's document", service("MeshService/default/west//web", "bank.example"), false),
            ("the global's document", service("MeshService/default/global//web", "bank.example"), false),
            ("another zone's version", relabelled, false),
            ("a version of the future", late, false),
            ("an identity of another zone", service(east_service, "default.west.mesh.local"), false),
            ("an identity of another mesh", service(east_service, "shop.east.mesh.local"), false),
            ("a secret", secret, false),
            ("what cannot be read", broken, false),
            ("what does not travel up", entry("Mesh//east//shop", 5, json!({})), false),
            ("its bundle", trust(key, "default.east.mesh.local", &own, 1), true),
            ("a bundle of a given domain", trust(key, "bank.example", &given, 1), true),
            ("another zone's domain", trust(key, "default.west.mesh.local", &stolen, 1), false),
            ("another zone's authority", trust(key, "default.east.mesh.local", &stolen, 1), false),
            ("a kind of the future", entry("MeshFromTheFuture/default/east//x", 5, json!({"a": 1})), true),
        ];
        for (why, entry, may) in cases {
            let neighbour = service("MeshService/default/east//neighbour", "default.east.mesh.local");
            let judged = judge(batch(vec![entry, neighbour]), &east(), &standing).unwrap();
            assert_eq!(judged.refused.is_empty(), may, "{why}: {judged:?}");
            let copies = judged.writes.iter().filter(|write| matches!(write, Write::Copy(_))).count();
            assert_eq!(copies, 1 + usize::from(may), "{why}: the neighbour flows");
            let world: World =
                [(Origin::Zone(east()), Point { epoch: 1, revision: 50 })].into_iter().collect();
            assert_eq!(judged.world, world, "{why}: of the global it has nothing to say");
        }
    }

    #[tokio::test]
    async fn s42_an_older_bundle_never_replaces_a_newer_one_nor_comes_back_by_another_name() {
        let (key, domain) = ("MeshTrust/default/east//t", "default.east.mesh.local");
        let (first, second) = (ca(domain), ca(domain));
        let store = MemoryStore::new(Origin::Global);
        let take = async |entry: Entry| {
            let batch = batch(vec![entry]);
            let trusts = store.list(Filter::all()).await.unwrap().records;
            let newest = newest(&*store, &east()).await.unwrap();
            let standing = Standing { trusts, newest, ..Standing::default() };
            let Judged { writes, refused, .. } = judge(batch, &east(), &standing).unwrap();
            store.apply(writes).await.unwrap();
            refused.into_iter().next().map(|refused| refused.reason)
        };
        let entry = |key, pem, revision: u64, n| {
            let entry = trust(key, domain, pem, n);
            Entry { version: Some(Version::new(Origin::Zone(east()), 1, revision)), ..entry }
        };
        let other = "MeshTrust/default/east//other";
        assert_eq!(take(entry(key, &first, 1, 7)).await, None);
        assert!(take(entry(key, &first, 2, 6)).await.unwrap().contains("1.6"));
        assert_eq!(take(entry(key, &second, 3, 8)).await, None);
        assert!(take(entry(other, &first, 4, 7)).await.unwrap().contains("1.8"), "by another name");
        assert_eq!(take(entry(other, &second, 5, 8)).await, None, "the same again, by another name");
        let unnumbered = |key, revision| Entry { bundle: None, ..entry(key, &first, revision, 0) };
        assert!(take(unnumbered(key, 6)).await.unwrap().contains("no number"));
        assert_eq!(take(unnumbered("MeshTrust/default/east//by-hand", 7)).await, None);

        // Nothing is held of it any more, but that it was newer.
        let gone = Version::new(Origin::Zone(east()), 1, 8);
        let forget = |key: &str| Write::Forget { key: key.parse().unwrap(), version: gone.clone() };
        store.apply(vec![forget(key), forget(other)]).await.unwrap();
        for key in [key, other, "MeshTrust/default/east//third"] {
            assert!(take(entry(key, &first, 9, 7)).await.unwrap().contains("older"), "{key}");
        }
        assert_eq!(take(entry(key, &second, 10, 8)).await, None);
    }

    #[tokio::test]
    async fn the_numbers_of_a_zone_count_for_itself_alone_and_go_with_it() {
        let store = MemoryStore::new(Origin::Global);
        let bank = ca("bank.example");
        let take = async |zone: &str, n: u64| {
            let zone: ZoneName = zone.parse().unwrap();
            let key = format!("MeshTrust/default/{zone}//t{n}");
            let upto = Point { epoch: 1, revision: u64::MAX };
            let world = [(Origin::Zone(zone.clone()), upto)].into_iter().collect();
            let batch = Batch { world, ..batch(vec![trust(&key, "bank.example", &bank, n)]) };
            let newest = newest(&*store, &zone).await.unwrap();
            let trust_domains = vec!["bank.example".parse().unwrap()];
            let standing = Standing { trust_domains, newest, ..Standing::default() };
            let Judged { writes, refused, .. } = judge(batch, &zone, &standing).unwrap();
            store.apply(writes).await.unwrap();
            refused.is_empty()
        };
        assert!(take("west", 1 << 60).await);
        assert!(take("east", 7).await, "west's numbers are not east's");
        assert!(!take("west", 7).await);
        forget_numbers(&*store, &"west".parse().unwrap()).await.unwrap();
        assert!(take("west", 7).await);
        assert!(!take("east", 6).await);
    }

    #[test]
    fn what_a_difference_should_have_had_before_is_refused_and_what_comes_again_is_not() {
        let key = "MeshService/default/east//web";
        let heard = Some(Point { epoch: 1, revision: 7 });
        let version = |revision| Version::new(Origin::Zone(east()), 1, revision);
        let sent = |revision| {
            let entry = service(key, "default.east.mesh.local");
            batch(vec![Entry { version: Some(version(revision)), ..entry }])
        };
        let held = |revision| BTreeMap::from([(key.parse().unwrap(), version(revision))]);
        let none = BTreeMap::new();
        for (why, batch, versions, may) in [
            ("new", sent(8), none.clone(), true),
            ("late", sent(7), none.clone(), false),
            ("late, and changes what is held", sent(6), held(5), false),
            ("again", sent(6), held(6), true),
            ("everything is sent", Batch { whole: true, ..sent(7) }, none, true),
        ] {
            let standing = Standing { heard, versions, ..Standing::default() };
            assert_eq!(judge(batch, &east(), &standing).unwrap().refused.is_empty(), may, "{why}");
        }
    }

    #[test]
    fn the_key_of_an_authority_that_is_held_is_not_taken_by_another_domain() {
        let pem = ca("bank.example");
        let held = Record::try_from(trust("MeshTrust/default/west//t", "bank.example", &pem, 1)).unwrap();
        let standing = Standing {
            trust_domains: vec!["robber.example".parse().unwrap()],
            trusts: vec![held],
            ..Standing::default()
        };
        let stolen = trust("MeshTrust/default/east//t", "robber.example", &pem, 1);
        let judged = judge(batch(vec![stolen]), &east(), &standing).unwrap();
        assert_eq!(judged.refused.len(), 1);
    }

    #[test]
    fn what_leaves_is_forgotten_and_what_was_refused_stays() {
        let keys = ["MeshService/default/east//kept", "MeshService/default/east//gone"];
        let standing =
            Standing { held: keys.iter().map(|key| key.parse().unwrap()).collect(), ..Standing::default() };
        let refused = entry(keys[0], 5, json!({"ports": [{"port": 0}]}));
        let unversioned = Entry { version: None, ..service(keys[0], "default.east.mesh.local") };
        let forgotten = |judged: Judged| -> Vec<String> {
            let key = |write: &Write| match write {
                Write::Forget { key, .. } => Some(key.to_string()),
                _ => None,
            };
            judged.writes.iter().filter_map(key).collect()
        };
        let is_whole = |judged: &Judged| judged.writes.iter().any(|write| matches!(write, Write::Whole(_)));
        for refused in [refused, unversioned] {
            let whole = Batch { whole: true, ..batch(vec![refused]) };
            let judged = judge(whole, &east(), &standing).unwrap();
            assert_eq!(judged.refused.len(), 1);
            assert!(is_whole(&judged), "the store is to know that it was told no difference");
            assert_eq!(forgotten(judged), [keys[1]]);
        }

        let removed = ["MeshService/default/east//gone", "MeshService/default/west//other", "nonsense"];
        let difference = Batch { removed: removed.map(str::to_owned).to_vec(), ..batch(vec![]) };
        let judged = judge(difference, &east(), &standing).unwrap();
        assert!(!is_whole(&judged));
        assert_eq!(judged.refused.len(), 2);
        assert_eq!(forgotten(judged), [keys[1]]);
    }

    #[test]
    fn a_batch_that_leads_nowhere_is_no_batch() {
        let batch = Batch { world: World::default(), ..batch(vec![]) };
        assert!(judge(batch, &east(), &Standing::default()).is_none());
    }
}
