//! Many proxies and the issuer of their zone: when it fails for a while, and when it was away.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use control::{Clock, Enroller, Home, Issuing, defaults};
use dataplane::control::certificate;
use futures::StreamExt;
use identity::{Peer, PrivateKey, SVID_LIFETIME};
use model::{Origin, SpiffeId, ZoneName};
use runtime::Tasks;
use serde_json::json;
use snapshot::handle::Salt;
use store::{Draft, Expect, Filter, MemoryStore, Store};
use sync::link::{self, Handle, Host, Options, Topics, Transport};
use sync::session::{Limits, Timing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use zone_cp::authorities::Authorities;
use zone_cp::history::History;
use zone_cp::hub::Hub;
use zone_cp::ingresses::Ingresses;
use zone_cp::metrics::Metrics;
use zone_cp::planner::{Client, Input, Planner, ProxyId};
use zone_cp::proxies::{Session, Zone};
use zone_cp::registration::{self, Granted};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The zone, with its real issuer, and the proxies, which do nothing but have themselves certified.
struct Crowd {
    home: Home,
    zone: Arc<Zone>,
    clock: Clock,
    /// The zone's authorities are out of time, so nothing can be issued.
    is_down: Arc<AtomicBool>,
    proxies: Vec<Proxy>,
    asked: Arc<Mutex<Vec<Instant>>>,
    /// Kept, since the hub's children end with them.
    _tasks: Tasks,
    _renewing: JoinSet<()>,
}

struct Proxy {
    id: ProxyId,
    handle: Handle,
    /// How often it was certified.
    certified: watch::Receiver<usize>,
}

impl Crowd {
    async fn gather(proxies: usize) -> Self {
        let (start, begin) = (SystemTime::now(), Instant::now());
        let clock = Clock::new(move || start + begin.elapsed());
        let name: ZoneName = "east".parse().unwrap();
        let store: Arc<dyn Store> = MemoryStore::new(Origin::Zone(name.clone()));
        let home = Home::on(store.clone(), clock.now()).await.unwrap();
        defaults::make(&*store).await.unwrap();
        let ids = (0..proxies).map(|number| ProxyId {
            mesh: "default".parse().unwrap(),
            name: format!("web-{number}").parse().unwrap(),
        });
        let ids: Vec<ProxyId> = ids.collect();
        for id in &ids {
            let body = json!({
                "type": "Dataplane", "mesh": "default", "name": id.name,
                "networking": {"address": "127.0.0.1", "inbound": []},
            });
            let granted = granted();
            let from = "127.0.0.1".parse().unwrap();
            let document =
                registration::dataplane(body.to_string().as_bytes(), id, &granted, from, &name, &[]).unwrap();
            let draft = Draft::new(id.key(&name), document.canonical());
            store.put(draft, Expect::Any).await.unwrap();
        }

        let is_down = Arc::new(AtomicBool::new(false));
        let (down, now) = (is_down.clone(), clock.clone());
        let of_authorities =
            Clock::new(move || if down.load(SeqCst) { SystemTime::UNIX_EPOCH } else { now.now() });
        let authorities = Arc::new(Authorities::new(of_authorities));
        let (mesh, domain) = ("default".parse().unwrap(), "default.east.mesh.local".parse().unwrap());
        authorities.ensure(&*store, &mesh, &domain).await.unwrap();
        let tasks = Tasks::new();
        let planner = Planner::new(name.clone(), Salt::new(&[7; 32]));
        let hub = Hub::new(name.clone(), planner, None, tasks.children(), clock.clone());
        hub.input(Input::Listed(store.list(Filter::all()).await.unwrap()));
        let zone = Arc::new(Zone {
            name,
            store: store.clone(),
            hub,
            history: Arc::new(History::load(store.clone()).await.unwrap()),
            authorities,
            ingresses: Arc::new(Ingresses::load(&*store).await.unwrap()),
            enroller: Arc::new(Enroller::open(home.clone()).await.unwrap()),
            issuing: Issuing::default(),
            clock: clock.clone(),
            metrics: Metrics::default(),
            own: Vec::new(),
        });

        let mut renewing = JoinSet::new();
        let proxies = ids.into_iter().map(|id| {
            let (handle, counted) = (Handle::new(), watch::Sender::new(0));
            let (asking, clock, certified) = (handle.clone(), clock.clone(), counted.subscribe());
            renewing.spawn(async move {
                let wanted = watch::Sender::new(Some(identity()));
                let put = async |_| counted.send_modify(|times| *times += 1);
                certificate::renew(&asking, &clock, wanted.subscribe(), None, put).await;
            });
            Proxy { id, handle, certified }
        });
        let proxies = proxies.collect();
        let (asked, _renewing) = (Arc::default(), renewing);
        Self { home, zone, clock, is_down, proxies, asked, _tasks: tasks, _renewing }
    }

    /// All have a session at once, until the token is cancelled.
    fn connect(&self) -> CancellationToken {
        let stop = CancellationToken::new();
        for Proxy { id, handle, .. } in &self.proxies {
            let peer = Peer::Proxy { mesh: id.mesh.clone(), name: id.name.clone() };
            let request = PrivateKey::generate().request();
            let chain = self.home.ca.issue_client(request.der(), &peer, None, self.clock.now()).unwrap();
            let above = Handle::new();
            let admission = self.zone.enroller.admit(&chain[0], above.clone()).unwrap();
            let client = Client::Proxy(id.clone());
            let attachment = self.zone.hub.attach(client.clone(), above.clone());
            let from = "127.0.0.1".parse().unwrap();
            let session = Session::new(self.zone.clone(), client, admission, attachment, from, granted());
            let issuer = Arc::new(Issuer { session, asked: self.asked.clone() });
            let (up, from_below) = mpsc::channel(1);
            let (down, from_above) = mpsc::channel(1);
            // Nobody listens for heartbeats, and there are many hours.
            let timing = Timing { heartbeat: 100 * HOUR, stale: 200 * HOUR, offline: 300 * HOUR };
            let options = Options { timing, ..Options::new("1.2.3", Limits::PROXY) };
            let (below, stop) = (handle.clone(), stop.clone());
            tokio::spawn(async move {
                let transport = |from: mpsc::Receiver<_>, outgoing| Transport {
                    incoming: link::frames(from).map(Ok),
                    outgoing,
                };
                tokio::join!(
                    link::run(issuer, &above, transport(from_below, down), &options, 1, &stop),
                    link::run(Arc::new(Nobody), &below, transport(from_above, up), &options, 1, &stop),
                )
            });
        }
        stop
    }

    async fn until_certified(&mut self, times: usize) {
        for Proxy { certified, .. } in &mut self.proxies {
            certified.wait_for(|now| *now >= times).await.unwrap();
        }
    }

    /// Whoever asks again and again is counted as often.
    fn asked(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

struct Issuer {
    session: Session,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Host for Issuer {
    fn topics(&self) -> Topics {
        Topics::default()
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        self.asked.lock().unwrap().push(Instant::now());
        self.session.question(kind, body).await
    }
}

struct Nobody;

impl Host for Nobody {
    fn topics(&self) -> Topics {
        Topics::default()
    }
}

fn granted() -> Granted {
    Granted { workload: Some("web".parse().unwrap()), addresses: Vec::new() }
}

fn identity() -> SpiffeId {
    "spiffe://default.east.mesh.local/workload/web".parse().unwrap()
}

/// The most of them in one second.
fn most_in_a_second(mut times: Vec<Instant>) -> usize {
    times.sort_unstable();
    let first_of_second = |end: &Instant| times.partition_point(|at| *at + SECOND <= *end);
    let counts = times.iter().enumerate().map(|(last, end)| last + 1 - first_of_second(end));
    counts.max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn s40_an_issuer_that_is_down_for_ten_minutes_is_asked_seldom_and_recovers_by_and_by() {
    const PROXIES: usize = 250;
    let mut crowd = Crowd::gather(PROXIES).await;
    crowd.is_down.store(true, SeqCst);
    let start = Instant::now();
    let _connected = crowd.connect();
    time::sleep(10 * MINUTE).await;
    let asked = crowd.asked();
    // Nine pauses lead to half a minute, and none is shorter than half of what it is to be.
    let most = PROXIES * (9 + 600 / 15);
    assert!((20 * PROXIES..most).contains(&asked.len()), "{} questions", asked.len());
    let later = asked.into_iter().filter(|at| *at > start + 2 * MINUTE).collect();
    let most = most_in_a_second(later);
    assert!(most < PROXIES / 5, "{most} questions in a second");

    crowd.is_down.store(false, SeqCst);
    let back = Instant::now();
    crowd.until_certified(1).await;
    assert!(back.elapsed() <= 31 * SECOND, "{:?}", back.elapsed());
    let asked = crowd.asked();
    assert_eq!(asked.len(), PROXIES);
    let most = most_in_a_second(asked);
    assert!(most < PROXIES / 5, "{most} questions in a second");
}

#[tokio::test(start_paused = true)]
async fn s40_proxies_that_were_to_renew_while_their_zone_was_away_do_not_ask_all_together_when_it_is_back() {
    const PROXIES: usize = 1000;
    let mut crowd = Crowd::gather(PROXIES).await;
    let connected = crowd.connect();
    // Who has nothing yet asks at once; more than can be served at a time, and all are served soon.
    let start = Instant::now();
    crowd.until_certified(1).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    connected.cancel();
    time::sleep(SVID_LIFETIME * 2 / 3 + MINUTE).await;
    crowd.asked();

    let _connected = crowd.connect();
    let back = Instant::now();
    crowd.until_certified(2).await;
    assert!((30 * SECOND..61 * SECOND).contains(&back.elapsed()), "{:?}", back.elapsed());
    let asked = crowd.asked();
    assert_eq!(asked.len(), PROXIES);
    let most = most_in_a_second(asked);
    assert!(most < PROXIES / 20, "{most} questions in a second");
}
