//! What the zone does with documents of the global that it cannot take.

use std::time::{Duration as Span, UNIX_EPOCH};

use api::Reports as _;
use api::shapes::ZoneState;
use model::kinds::MeshTrafficPermission;
use model::{DocumentKey, Point, Record, Version};
use runtime::Tasks;
use snapshot::handle::Salt;
use snapshot::view::View;
use store::MemoryStore;
use sync::Entry;

use super::*;
use crate::authorities::Authorities;
use crate::ingresses::Ingresses;
use crate::planner::Planner;

const GOOD: &str = r#"{"type": "MeshTrafficPermission", "mesh": "default", "name": "p",
    "spec": {"rules": [{"default": {"allow": [{"source": {}}]}}]}}"#;

struct Zone {
    upstream: Upstream,
    _tasks: Tasks,
}

impl Zone {
    /// A control plane that starts on this store, and has heard of its global.
    async fn start(store: &Arc<dyn Store>, now: u64) -> Self {
        let (zone, tasks): (ZoneName, _) = ("east".parse().unwrap(), Tasks::new());
        let clock = Clock::new(move || UNIX_EPOCH + Span::from_secs(now));
        let planner = Planner::new(zone.clone(), Salt::new(&[7; 32]));
        let hub = Hub::new(zone.clone(), planner, None, tasks.children(), clock.clone());
        let ingresses = Arc::new(Ingresses::load(&**store).await.unwrap());
        let reporter = Reporter {
            zone: zone.clone(),
            store: store.clone(),
            hub: hub.clone(),
            ingresses: ingresses.clone(),
            clock: clock.clone(),
            started: Instant::now(),
            authority_ends: UNIX_EPOCH,
            membership: None,
        };
        let reports = Arc::new(Reports::default());
        reports.put(LANE, Refusals::load(&**store, LANE).await.unwrap());
        let upstream = Upstream {
            zone: zone.clone(),
            store: store.clone(),
            hub,
            holds: Arc::default(),
            reporter: Arc::new(reporter),
            ages: Arc::new(Mutex::new(Ages::new(Vec::new(), Instant::now()))),
            cut_off: Arc::default(),
            take_up: TakeUp::new(zone, Handle::new(), Arc::new(Authorities::new(clock.clone())), ingresses),
            reports,
            again: Again::default(),
            sessions: Handle::new(),
            clock,
            fence: Mutex::default(),
        };
        upstream.collect(Topic::ORIGINATED, Base::Opened(Place::default())).await.unwrap();
        upstream.locate(Topic::POLICY).await.unwrap();
        Self { upstream, _tasks: tasks }
    }

    /// What it refuses after a batch that leads to a revision.
    async fn refuses(&self, revision: u64, documents: &[(&str, &str)]) -> Vec<Refused> {
        self.hears(revision, documents, &[]).await
    }

    async fn hears(
        &self,
        revision: u64,
        documents: &[(&str, &str)],
        removed: &[DocumentKey],
    ) -> Vec<Refused> {
        self.hears_of(false, revision, documents, removed).await
    }

    /// Whether it asks for everything when it opens the topic.
    async fn asks(&self) -> bool {
        self.upstream.locate(Topic::POLICY).await.unwrap().anew
    }

    async fn hears_of(
        &self,
        whole: bool,
        revision: u64,
        documents: &[(&str, &str)],
        removed: &[DocumentKey],
    ) -> Vec<Refused> {
        let entry =
            |(name, text): &(&str, &str)| Entry::from(document(&key(name).to_string(), revision, text));
        let entries = documents.iter().map(entry).collect();
        let removed = removed.iter().map(ToString::to_string).collect();
        let world = [(Origin::Global, Point { epoch: 1, revision })].into_iter().collect();
        // A line that goes on as it was.
        let (hash, continues) = (Bytes::from_static(b"line"), Bytes::from_static(b"line"));
        let batch = Batch { whole, entries, removed, world, hash, continues };
        match self.upstream.apply(Topic::POLICY, batch).await.unwrap() {
            Applied::Stored { refused, .. } => refused,
            held => panic!("{held:?}"),
        }
    }

    async fn state(&self, revision: u64) -> ZoneState {
        let revision = Version::new(Origin::Global, 1, revision);
        let question = serde_json::to_vec(&RevisionQuestion { revision, wait_ms: 0 }).unwrap();
        let answer = self.upstream.question(questions::REVISION.to_owned(), question.into()).await.unwrap();
        serde_json::from_slice::<RevisionAnswer>(&answer).unwrap().zone.state
    }
}

fn document(key: &str, revision: u64, text: &str) -> Record {
    let version = Version::new(Origin::Global, 1, revision);
    let (key, bytes) = (key.parse().unwrap(), text.to_owned().into());
    Record { key, version, secret: false, requires: vec![], bundle: None, bytes }
}

fn key(name: &str) -> DocumentKey {
    format!("MeshTrafficPermission/default/global//{name}").parse().unwrap()
}

#[tokio::test]
async fn what_is_refused_is_told_until_a_later_revision_is_taken_also_after_a_restart() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let zone = Zone::start(&store, 100).await;
    assert_eq!(zone.refuses(5, &[("p", GOOD)]).await, []);
    let told = zone.refuses(7, &[("p", "{\"spec\": "), ("q", &GOOD.replace("\"p\"", "\"q\""))]).await;
    let before = Some(Version::new(Origin::Global, 1, 5));
    let [one] = &told[..] else { panic!("{told:?}") };
    assert_eq!((one.key.as_str(), one.since, &one.in_force), (key("p").to_string().as_str(), 100, &before));
    let held = store.get(&key("p")).await.unwrap().unwrap();
    assert_eq!(Some(held.version), before, "the last good version stays");
    assert!(store.get(&key("q")).await.unwrap().is_some(), "the other flows");
    assert_eq!(zone.refuses(8, &[]).await, told, "with every acknowledgement");
    assert_eq!(zone.state(7).await, ZoneState::Refused);
    assert_ne!(zone.state(8).await, ZoneState::Refused, "another revision has nothing to do with it");

    let zone = Zone::start(&store, 200).await;
    let reports = zone.upstream.reports.refusals(&key("p"));
    assert_eq!((reports.len(), reports[0].since, &reports[0].in_force), (1, 100, &before));
    assert_eq!(zone.refuses(9, &[]).await, told);
    assert_eq!(zone.refuses(10, &[("p", GOOD)]).await, []);
    assert_eq!(zone.upstream.reports.refusals(&key("p")), []);
    assert_eq!(Refusals::load(&*store, LANE).await.unwrap(), Refusals::default());
}

#[tokio::test]
async fn while_a_document_that_guards_was_never_taken_nothing_of_its_mesh_is_proven() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let zone = Zone::start(&store, 100).await;
    let other = |name| Write::Copy(document(&format!("MeshTimeout/{name}/global//slow"), 3, "{}"));
    store.apply(vec![other("bank")]).await.unwrap();
    let told = zone.refuses(5, &[("p", "7")]).await;
    assert_eq!(told[0].in_force, None);
    for revision in [4, 5, 6] {
        assert_eq!(zone.state(revision).await, ZoneState::Refused, "{revision}");
    }
    assert_ne!(zone.state(3).await, ZoneState::Refused, "of another mesh");
    zone.refuses(7, &[("p", GOOD)]).await;
    assert_ne!(zone.state(7).await, ZoneState::Refused);
}

#[test]
fn only_who_met_another_authority_surely_needs_a_token() {
    use std::io;
    let address = || "global:5685".to_owned();
    let tls = |kind| DialError::Tls { address: address(), source: io::Error::from(kind) };
    let reason = || "it says so".to_owned();
    for (error, want) in [
        (tls(io::ErrorKind::InvalidData), Remedy::Token),
        (tls(io::ErrorKind::UnexpectedEof), Remedy::Address),
        (DialError::Refused { address: address(), reason: reason() }, Remedy::Standing),
        (DialError::Unavailable { address: address(), reason: reason() }, Remedy::Global),
        (
            DialError::Unreachable { address: address(), source: io::ErrorKind::ConnectionRefused.into() },
            Remedy::Address,
        ),
        (DialError::TimedOut { address: address(), step: "connecting" }, Remedy::Address),
    ] {
        assert_eq!(remedy(&error), want, "{error}");
    }
}

#[tokio::test]
async fn a_permission_that_was_never_taken_forbids_everything_in_its_mesh_and_names_itself() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let zone = Zone::start(&store, 100).await;
    // What stands in the rules of every inbound, by what is in the store.
    let forbidden = async || -> Vec<String> {
        let mut view = View::default();
        for record in store.list(Filter::all()).await.unwrap().records {
            let _ = view.put(&record);
        }
        let mesh = "default".parse().unwrap();
        let unread = view.unread::<MeshTrafficPermission>(&mesh);
        unread.map(|(key, version)| format!("{key} {version}")).collect()
    };
    let named = |revision: u64| vec![format!("{} global-1-{revision}", key("p"))];
    assert_eq!(zone.refuses(5, &[("p", "7"), ("q", &GOOD.replace("\"p\"", "\"q\""))]).await.len(), 1);
    assert_eq!(forbidden().await, named(5));
    let told = zone.refuses(6, &[("p", "8"), ("q", "9")]).await;
    assert_eq!(forbidden().await, named(6), "what was read stays in force");
    assert_eq!(told.iter().filter(|one| one.in_force.is_none()).count(), 1, "{told:?}");
    assert_eq!(told, zone.refuses(7, &[]).await);
    assert_eq!(zone.refuses(8, &[("p", GOOD), ("q", &GOOD.replace("\"p\"", "\"q\""))]).await, []);
    assert_eq!(forbidden().await, [""; 0]);
    zone.refuses(9, &[("p", "7")]).await;
    assert_eq!(forbidden().await, [""; 0]);
    // Taken away, and back again as nobody ever knew it.
    zone.hears(10, &[], &[key("p")]).await;
    zone.refuses(11, &[("p", "7")]).await;
    assert_eq!(forbidden().await, named(11));
    zone.hears(12, &[], &[key("p")]).await;
    assert_eq!(forbidden().await, [""; 0]);
}

#[tokio::test]
async fn what_was_refused_is_judged_again_after_a_start_as_a_newer_program_may_read_it() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let zone = Zone::start(&store, 100).await;
    assert!(!zone.asks().await);
    zone.refuses(5, &[("p", "7")]).await;
    assert!(!zone.asks().await, "this program would say the same again");
    let zone = Zone::start(&store, 200).await;
    assert!(zone.asks().await);
    assert_eq!(zone.hears_of(true, 5, &[("p", GOOD)], &[]).await, [], "as if a newer one read it");
    assert_eq!(zone.upstream.reports.refusals(&key("p")), []);
    let zone = Zone::start(&store, 300).await;
    assert!(!zone.asks().await, "nothing is refused");
}

#[tokio::test]
async fn what_comes_to_a_session_that_another_took_over_from_is_not_stored() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let earlier = Zone::start(&store, 100).await;
    earlier.refuses(5, &[("p", GOOD)]).await;
    let later = Zone::start(&store, 100).await;
    let before = store.head().await.unwrap();

    let entry = Entry::from(document(&key("q").to_string(), 6, &GOOD.replace("\"p\"", "\"q\"")));
    let (hash, continues) = (Bytes::from_static(b"line"), Bytes::from_static(b"line"));
    let world: World = [(Origin::Global, Point { epoch: 1, revision: 6 })].into_iter().collect();
    let batch = Batch { entries: vec![entry], world, hash, continues, ..Batch::default() };
    let refused = earlier.upstream.apply(Topic::POLICY, batch).await.unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(store::Error::Fenced { .. })), "{refused}");
    assert_eq!(store.head().await.unwrap(), before);
    assert!(store.get(&key("q")).await.unwrap().is_none());

    later.refuses(6, &[("q", &GOOD.replace("\"p\"", "\"q\""))]).await;
    assert!(store.get(&key("q")).await.unwrap().is_some(), "the latest session goes on");
}

const WEB: &str =
    r#"{"type": "MeshService", "mesh": "default", "name": "web", "spec": {"ports": [{"port": 80}]}}"#;

#[tokio::test]
async fn a_global_that_was_put_back_takes_nothing_of_another_zone_away() {
    let store: Arc<dyn Store> = MemoryStore::new("east".parse().unwrap());
    let zone = Zone::start(&store, 100).await;
    let west: Origin = "west".parse().unwrap();
    let service = |revision| Record {
        version: Version::new(west.clone(), 1, revision),
        ..document("MeshService/default/west//web", 1, WEB)
    };
    let told = |global, west_at, records: Vec<Record>| Batch {
        whole: true,
        entries: records.into_iter().map(Entry::from).collect(),
        world: [(Origin::Global, global), (west.clone(), west_at)]
            .map(|(origin, revision)| (origin, Point { epoch: 1, revision }))
            .into_iter()
            .collect(),
        hash: Bytes::from_static(b"line"),
        continues: Bytes::from_static(b"line"),
        ..Batch::default()
    };
    zone.upstream.apply(Topic::POLICY, told(5, 9, vec![service(9)])).await.unwrap();
    let behind = told(6, 7, vec![service(7)]);
    for batch in [behind, told(7, 7, vec![])] {
        let applied = zone.upstream.apply(Topic::POLICY, batch).await.unwrap();
        let Applied::Stored { world, .. } = applied else { panic!("{applied:?}") };
        assert_eq!(world.point(&west), Some(Point { epoch: 1, revision: 9 }));
        let held = store.get(&service(9).key).await.unwrap().unwrap();
        assert_eq!(held.version, service(9).version);
    }
}
