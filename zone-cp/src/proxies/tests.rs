//! Sessions of one proxy, without a wire, over a store that knows less than the proxy was told.

use api::Problem;
use api::shapes::{Hold, LateReason, ZoneState};
use control::Home;
use identity::{Peer, PrivateKey};
use model::{Origin, Point, Version};
use runtime::Tasks;
use rustls::pki_types::CertificateDer;
use snapshot::handle::Salt;
use store::{Filter, MemoryStore, Write};
use sync::link::Handle;
use sync::{Digest, Place};

use super::*;
use crate::planner::Planner;
use crate::planner::tests::{identity, proxy, subscribe};
use crate::proof;

mod simulation;

const GONE: &str = "destination/ms_default_east__gone_http";

struct Rig {
    zone: Arc<Zone>,
    certificate: CertificateDer<'static>,
    session: Session,
    _tasks: Tasks,
}

fn east() -> Origin {
    "east".parse().unwrap()
}

fn at(epoch: u64, revision: u64) -> Point {
    Point { epoch, revision }
}

/// Of the proxy `web`, as one of a workload: that is in its identity.
fn dataplane(workload: &str) -> Draft {
    let document = serde_json::json!({
        "type": "Dataplane", "mesh": "default", "name": "web",
        "labels": { "tombolo.io/workload": workload },
        "networking": { "address": "127.0.0.1" },
    });
    Draft::new("Dataplane/default/east//web".parse().unwrap(), document.to_string())
}

impl Rig {
    /// A zone with the proxy `web`, which heard of the global up to revision 10.
    async fn start() -> Self {
        let clock = Clock::system();
        let store: Arc<dyn Store> = MemoryStore::new(east());
        let web = ProxyId { mesh: "default".parse().unwrap(), name: "web".parse().unwrap() };
        store.put(dataplane("web"), Expect::Any).await.unwrap();
        let heard = [(Origin::Global, at(1, 10))].into_iter().collect();
        store.apply(vec![Write::Copy(identity()), Write::Advance(heard)]).await.unwrap();

        let home = Home::on(store.clone(), clock.now()).await.unwrap();
        let peer = Peer::Proxy { mesh: web.mesh, name: web.name };
        let request = PrivateKey::generate();
        let chain = home.ca.issue_client(request.request().der(), &peer, None, clock.now()).unwrap();
        Self::on(store, chain[0].clone()).await
    }

    /// The same zone, begun anew with what its store has.
    async fn restarted(&self) -> Self {
        Self::on(self.zone.store.clone(), self.certificate.clone()).await
    }

    async fn on(store: Arc<dyn Store>, certificate: CertificateDer<'static>) -> Self {
        let (clock, name): (_, ZoneName) = (Clock::system(), "east".parse().unwrap());
        let home = Home::on(store.clone(), clock.now()).await.unwrap();
        let enroller = Arc::new(Enroller::open(home).await.unwrap());
        let tasks = Tasks::new();
        let planner = Planner::new(name.clone(), Salt::new(&[7; 32]));
        let zone = Arc::new(Zone {
            hub: Hub::new(name.clone(), planner, None, tasks.children(), clock.clone()),
            name,
            history: Arc::new(History::load(store.clone()).await.unwrap()),
            authorities: Arc::new(Authorities::new(clock.clone())),
            ingresses: Arc::new(Ingresses::load(&*store).await.unwrap()),
            store,
            enroller,
            clock,
            issuing: Issuing::default(),
            metrics: Metrics::default(),
            own: Vec::new(),
        });
        let session = open(&zone, &certificate);
        let rig = Self { zone, certificate, session, _tasks: tasks };
        rig.follow().await;
        rig
    }

    /// Another session of the proxy takes the place of the one before.
    fn reopen(&mut self) {
        self.session.closed(&Ended::Lost("test".into()));
        self.session = open(&self.zone, &self.certificate);
    }

    /// The planner hears what is in the store.
    async fn follow(&self) {
        let listing = self.zone.store.list(Filter::all()).await.unwrap();
        self.zone.hub.input(Input::Listed(listing));
    }

    async fn collect(&self, base: Base) -> Option<Batch> {
        self.session.collect(Topic::PARTS, base).await.unwrap()
    }

    fn holds(&self) -> Vec<Hold> {
        self.zone.history.holds(&self.zone.hub.world())
    }

    /// Whose sessions are to be opened anew.
    async fn accept(&self, origin: &str, epoch: u64) -> Result<Vec<Client>, Problem> {
        let (origin, known) = (origin.parse().unwrap(), self.zone.hub.world());
        let (_, clients) = self.zone.history.accept(&origin, epoch, &known).await?;
        Ok(clients)
    }

    /// What `wait` says of the zone, and of its proxy.
    async fn proof(&self) -> (ZoneState, Option<(LateReason, String)>) {
        let version = Version { origin: Origin::Global, point: at(1, 10) };
        let proof = self.zone.hub.prove(&version, std::time::Duration::ZERO).await;
        let late = proof::late(&self.zone.name, &proof).next();
        let state = proof::progress(&self.zone.name, &proof, &[]).state;
        (state, late.map(|late| (late.reason, late.detail)))
    }
}

fn open(zone: &Arc<Zone>, certificate: &CertificateDer<'_>) -> Session {
    let (client, handle) = (proxy("web"), Handle::new());
    let admission = zone.enroller.admit(certificate, handle.clone()).unwrap();
    let attachment = zone.hub.attach(client.clone(), handle);
    let granted = Granted { workload: None, addresses: Vec::new() };
    let from = IpAddr::from([127, 0, 0, 1]);
    let session = Session::new(zone.clone(), client.clone(), admission, attachment, from, granted);
    zone.hub.input(subscribe(&client, session.number, &["identity"]));
    session
}

/// Of a proxy that was told this much, and knows of a destination.
fn place(global: Point, own: Point, hash: &'static str) -> Place {
    let held = [(GONE.to_owned(), Digest::of(b"{}"))].into_iter().collect();
    Place {
        have: [(Origin::Global, global), (east(), own)].into_iter().collect(),
        hash: hash.into(),
        held,
        ..Place::default()
    }
}

#[tokio::test]
async fn a_proxy_that_was_told_more_of_the_global_is_sent_nothing_before_its_zone_knows_that() {
    let rig = Rig::start().await;
    let ahead = place(at(1, 12), at(1, 1), "");
    let (told, acknowledged) = (ahead.have.clone(), Base::Acknowledged(ahead.have.clone()));
    assert_eq!(rig.collect(Base::Opened(ahead)).await, None);
    // What the session sends by itself then says nothing of what the zone knows.
    rig.session.acknowledged(&Topic::PARTS, &told, &[]);
    assert_eq!(rig.collect(acknowledged.clone()).await, None);
    let (state, late) = rig.proof().await;
    let (reason, detail) = late.unwrap();
    assert_eq!((state, reason), (ZoneState::Pending, LateReason::Slow));
    assert!(detail.contains("more than this zone knows of global"), "{detail}");
    let hold = rig.holds().remove(0);
    assert_eq!(
        (hold.have.to_string(), hold.offered.to_string()),
        ("global-1-12".into(), "global-1-10".into())
    );

    let heard = [(Origin::Global, at(1, 12))].into_iter().collect();
    rig.zone.store.apply(vec![Write::Advance(heard)]).await.unwrap();
    rig.follow().await;
    assert_eq!(rig.holds(), [], "there is nothing to decide any more");
    let batch = rig.collect(acknowledged).await.unwrap();
    assert_eq!(
        (batch.removed, batch.world),
        (vec![GONE.to_owned()], told.clone()),
        "relative to what it has"
    );
    rig.session.acknowledged(&Topic::PARTS, &told, &[]);
    assert_eq!(rig.proof().await, (ZoneState::Applied, None));
}

#[tokio::test]
async fn a_proxy_that_was_told_more_of_its_zone_holds_that_until_somebody_accepts() {
    let mut rig = Rig::start().await;
    let ahead = place(at(1, 10), at(1, 9), "lost");
    let acknowledged = Base::Acknowledged(ahead.have.clone());
    assert_eq!(rig.collect(Base::Opened(ahead.clone())).await, None);
    let head = rig.zone.store.head().await.unwrap();
    assert_eq!(head.point, at(2, 9), "before anything else is written");
    rig.follow().await;
    let batch = rig.collect(acknowledged).await.unwrap();
    assert_eq!((batch.world.point(&east()), &*batch.continues), (Some(at(2, 9)), &b""[..]));
    assert_eq!(&*batch.hash, head.hash.0);
    rig.session.held_by_peer(&Topic::PARTS, "another history");
    let (state, late) = rig.proof().await;
    assert_eq!((state, late.unwrap().0), (ZoneState::Diverged, LateReason::Refused));
    let hold = rig.holds().remove(0);
    assert_eq!((hold.have.to_string(), hold.offered.to_string()), ("east-1-9".into(), "east-2-9".into()));
    assert_eq!((hold.lost, hold.keys), (1, vec![format!("{GONE} of proxy default/web")]));
    assert!(hold.reason.contains("another history"), "{}", hold.reason);

    assert!(rig.accept("east", 1).await.is_err(), "that is not what was looked at");
    assert_eq!(rig.accept("east", 2).await.unwrap(), [proxy("web")]);
    rig.reopen();
    assert_eq!(rig.holds(), [], "nobody is there who holds it");
    let batch = rig.collect(Base::Opened(ahead.clone())).await.unwrap();
    assert_eq!(&*batch.continues, b"lost", "it goes on from there, as somebody decided");
    rig.session.acknowledged(&Topic::PARTS, &batch.world, &[]);
    assert_eq!(rig.proof().await, (ZoneState::Applied, None));

    // Whoever was told of a later epoch was told another history again, which is so after a start alone.
    rig.reopen();
    let later = place(at(1, 10), at(2, 30), "lost again");
    assert_eq!(rig.collect(Base::Opened(later.clone())).await, None);
    assert_eq!(rig.zone.store.head().await.unwrap().point, head.point);
    let started = History::load(rig.zone.store.clone()).await.unwrap();
    let away = started.find(&proxy("cart"), &Base::Opened(ahead)).await.unwrap();
    assert_eq!(&*away.continues, b"lost", "whoever was away until the next start is not asked about again");
    assert!(!started.find(&proxy("web"), &Base::Opened(later)).await.unwrap().is_on_line);
    assert_eq!(rig.zone.store.head().await.unwrap().point, at(3, 30));
}

#[tokio::test]
async fn a_proxy_that_was_told_of_a_zone_that_nobody_knows_here_drops_that_once_somebody_accepts() {
    let mut rig = Rig::start().await;
    let told_of_west = |revision| {
        let mut told = place(at(1, 10), at(1, 1), "");
        told.have.advance("west".parse().unwrap(), at(1, revision));
        told
    };
    assert_eq!(rig.collect(Base::Opened(told_of_west(50))).await, None);
    assert!(rig.accept("west", 0).await.is_err(), "nobody has looked at it");
    let hold = rig.holds().remove(0);
    assert_eq!((hold.have.to_string(), hold.offered.to_string()), ("west-1-50".into(), "west-0-0".into()));
    assert_eq!((hold.lost, hold.keys), (1, vec![format!("{GONE} of proxy default/web")]));

    assert!(rig.accept("north", 0).await.is_err(), "nothing is held of it");
    assert!(rig.accept("west", 1).await.is_err(), "that is not what was looked at");
    assert_eq!(rig.collect(Base::Opened(told_of_west(60))).await, None);
    assert!(rig.accept("west", 0).await.is_err(), "nor is what a proxy says since");
    assert_eq!(rig.collect(Base::Opened(told_of_west(50))).await, None, "nor is it let go by itself");
    assert_eq!(rig.accept("west", 0).await.unwrap(), [proxy("web")]);
    rig.reopen();
    let batch = rig.collect(Base::Opened(told_of_west(50))).await.unwrap();
    assert_eq!((batch.world.point(&"west".parse().unwrap()), batch.removed), (None, vec![GONE.to_owned()]));
    rig.session.acknowledged(&Topic::PARTS, &batch.world, &[]);
    assert_eq!(rig.proof().await, (ZoneState::Applied, None));
    assert_eq!(rig.holds(), []);

    let (started, known) = (History::load(rig.zone.store.clone()).await.unwrap(), rig.zone.hub.world());
    let ahead = |revision| started.ahead(&told_of_west(revision).have, &known);
    assert!(ahead(50).is_empty(), "whoever was away until the next start is not asked about again");
    assert!(!ahead(51).is_empty(), "that was shown to nobody");
}

#[tokio::test]
async fn a_proxy_on_the_line_follows_it_into_a_new_epoch() {
    let rig = Rig::start().await;
    let head = rig.zone.store.head().await.unwrap();
    let here = Place { have: head.world.clone(), hash: head.hash.0.to_vec().into(), ..Place::default() };
    let first = rig.collect(Base::Opened(here)).await.unwrap();
    assert_eq!(&*first.continues, head.hash.0);
    rig.zone.store.begin_epoch(at(1, 9), None).await.unwrap();
    rig.zone.store.put(dataplane("shop"), Expect::Any).await.unwrap();
    rig.follow().await;
    let next = rig.collect(Base::Acknowledged(first.world)).await.unwrap();
    assert_eq!(next.world.point(&east()), Some(at(2, 10)));
    assert_eq!(next.continues, first.hash);
    assert_eq!(&*next.hash, rig.zone.store.head().await.unwrap().hash.0);
}

#[tokio::test]
async fn a_proxy_that_says_it_runs_more_than_it_was_sent_is_believed_what_it_was_sent() {
    let rig = Rig::start().await;
    let sent = rig.collect(Base::Opened(Place::default())).await.unwrap();
    // This is not on its way yet.
    rig.zone.store.put(dataplane("shop"), Expect::Any).await.unwrap();
    rig.follow().await;
    let newer = Version { origin: east(), point: rig.zone.store.head().await.unwrap().point };
    assert!(!sent.world.covers(&newer));
    let boast = [(Origin::Global, at(1, 99)), (east(), at(1, 99))].into_iter().collect();
    rig.session.acknowledged(&Topic::PARTS, &boast, &[]);
    assert_eq!(rig.proof().await, (ZoneState::Applied, None), "of the global it has all");
    let proof = rig.zone.hub.prove(&newer, std::time::Duration::ZERO).await;
    assert_eq!((proof.current, proof.late.len()), (0, 1));
}
