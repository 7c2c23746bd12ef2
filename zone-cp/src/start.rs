//! Puts a zone control plane together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use api::shapes::ProxyCounts;
use api::{ApiConfig, Authority, routes, status};
use bytes::Bytes;
use control::presence::{self, Ages};
use control::{
    Again, Enroller, Holds, Home, Issuing, Listeners, Refusals, Reports, Running, ServerTls, TokenOffice,
    Unread, defaults, metrics, questions, serve, server_tls,
};
use identity::Peer;
use joining::{Joining, Keep, Kept, Membership};
use model::{Origin, ZoneName};
use prometheus_client::registry::Registry;
use runtime::{AdminPages, Readiness, Stage, Tasks};
use snapshot::handle::Salt;
use store::{Filter, SecretBytes, Store, Watch};
use sync::frame::Signal;
use sync::link::{self, Handle};
use sync::session::{Limits, Timing};
use sync::{Topic, server};
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::answers::{Answers, Gatekeeper, Holding};
use crate::authorities::Authorities;
use crate::generator::Generator;
use crate::history::History;
use crate::hub::Hub;
use crate::ingresses::Ingresses;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::planner::{Input, Planner, ProxyId};
use crate::proxies::Zone;
use crate::reporter::Reporter;
use crate::sessions::Sessions;
use crate::take_up::TakeUp;
use crate::upstream::{self, CutOff, Upstream};
use crate::{lives, memory};

/// The zone control plane, to be started in any process.
pub struct ZoneCp;

/// Where the secret is kept from which the zone's handles are derived.
const SALT: &str = "handle-salt";

impl ZoneCp {
    /// Serves when this returns. Everything is released when [`Running::shutdown`] does.
    pub async fn start(options: Options) -> anyhow::Result<Running> {
        let clock = options.clock.clone();
        let zone = options.zone.clone();
        // Ports first: whoever cannot have them should not touch the folder.
        let listeners = Listeners::bind(&options.addresses()).await?;
        let addresses = listeners.addresses()?;
        let home = Home::open(&options.data_dir, Origin::Zone(zone.clone()), clock.now())
            .await
            .with_context(|| format!("cannot use the data folder {}", options.data_dir.display()))?;
        let (tls, renewal) =
            ServerTls::start(home.ca.clone(), server_tls::host_name().into_iter().collect(), clock.clone())?;
        let (store, enroller) = (home.store.clone(), Arc::new(Enroller::open(home.clone()).await?));

        let mut tasks = Tasks::new();
        tasks.spawn("server certificate", |stop| renewal.run(stop));
        tasks.spawn("admissions", {
            let (enroller, clock) = (enroller.clone(), clock.clone());
            async move |stop| {
                enroller.run(&clock, stop).await;
                Ok(())
            }
        });
        let joins = options.joins();
        let of_global = joins.as_ref().and_then(|(address, _)| address.parse::<SocketAddr>().ok());
        let upstream = joins.is_some().then(Handle::new);
        let planner = Planner::new(zone.clone(), salt(&*store).await?);
        let hub = Hub::new(zone.clone(), planner, upstream.clone(), tasks.children(), clock.clone());
        follow_revocations(&mut tasks, enroller.turned_away(), hub.clone());
        follow_store(&mut tasks, store.clone(), hub.clone()).await?;
        let kept = memory::load(&*store, &hub).await?;
        tasks.spawn("memory", {
            let (store, hub) = (store.clone(), hub.clone());
            |stop| memory::run(store, hub, kept, stop)
        });
        let authorities = Arc::new(Authorities::new(clock.clone()));
        let ingresses = Arc::new(Ingresses::load(&*store).await?);
        let generator = Generator {
            zone: zone.clone(),
            store: store.clone(),
            authorities: authorities.clone(),
            ingresses: ingresses.clone(),
            view: hub.empty_view(),
        };
        tasks.spawn("generator", |stop| generator.run(stop));

        let joined = match joins {
            None => None,
            Some((address, token_file)) => {
                let peer = Peer::Zone(zone.clone());
                let joining = Joining { peer, address, token_file, clock: clock.clone() };
                Some(Membership::open(joining, KeepSealed(store.clone())).await?)
            }
        };
        let membership = joined.as_ref().map(Membership::follow);
        let reporter = Arc::new(Reporter {
            zone: zone.clone(),
            store: store.clone(),
            hub: hub.clone(),
            ingresses: ingresses.clone(),
            clock: clock.clone(),
            started: time::Instant::now(),
            authority_ends: home.ca.validity().not_after,
            membership: membership.clone(),
        });
        let kept = presence::last_heard(&*store, clock.now()).await?;
        let ages = Arc::new(Mutex::new(Ages::new(kept, time::Instant::now())));
        let all_ages = {
            let ages = ages.clone();
            move || ages.lock().unwrap_or_else(PoisonError::into_inner).all(time::Instant::now())
        };
        let cut_off = Arc::new(CutOff::default());
        let reports = Arc::new(Reports::default());
        reports.put(upstream::LANE, Refusals::load(&*store, upstream::LANE).await?);
        let mut registry = Registry::default();
        let counts = Metrics::register(&mut registry);
        let of_both = control::Metrics::register(&mut registry, &*store);
        let (authority_ends, server_ends) = (home.ca.validity().not_after, tls.ends.clone());
        let workload_authorities = authorities.clone();
        metrics::show_ends(&mut registry, move || {
            let own =
                [("authority".to_owned(), authority_ends), ("server".to_owned(), *server_ends.borrow())];
            let kept = membership.as_ref().and_then(|membership| membership.borrow().clone());
            let membership =
                kept.map(|kept| ("membership".to_owned(), kept.credential().validity().not_after));
            own.into_iter().chain(membership).chain(workload_authorities.ends()).collect()
        });
        let sessions = link::Options::new(env!("CARGO_PKG_VERSION"), Limits::PROXY).with(Timing::PROXY);
        let upward = link::Options::new(env!("CARGO_PKG_VERSION"), Limits::CONTROL_PLANE);
        let counters = [("proxies", sessions.counters.clone()), ("global", upward.counters.clone())];
        metrics::show_sessions(&mut registry, counters);
        let told = ages.clone();
        metrics::show_ages(&mut registry, move || {
            told.lock().unwrap_or_else(PoisonError::into_inner).everyone(time::Instant::now())
        });
        let (keeping, at) = (store.clone(), clock.clone());
        tasks.spawn("ages", |stop| presence::keep(keeping, at, all_ages, stop));
        let holds = Arc::new(Holds::default());
        let history = Arc::new(History::load(store.clone()).await?);
        let holding = Arc::new(Holding {
            hub: hub.clone(),
            history: history.clone(),
            holds: holds.clone(),
            upstream: upstream.clone(),
        });
        let authority = match (joined, upstream) {
            (Some(joined), Some(handle)) => {
                let host = Arc::new(Upstream {
                    zone: zone.clone(),
                    store: store.clone(),
                    hub: hub.clone(),
                    holds: holds.clone(),
                    fence: Mutex::default(),
                    reporter: reporter.clone(),
                    ages: ages.clone(),
                    cut_off: cut_off.clone(),
                    take_up: TakeUp::new(
                        zone.clone(),
                        handle.clone(),
                        authorities.clone(),
                        ingresses.clone(),
                    ),
                    reports: reports.clone(),
                    again: Again::default(),
                    sessions: handle.clone(),
                    clock: clock.clone(),
                });
                let authority = Authority::Global { address: Some(joined.address().to_owned()) };
                join(&mut tasks, joined, host, handle.clone(), upward);
                follow_counts(&mut tasks, hub.clone(), counts.clone(), Some((zone.clone(), handle.clone())));
                report_changes(&mut tasks, store.clone(), handle);
                authority
            }
            _ => {
                defaults::make(&*store).await?;
                let store = store.clone();
                tasks.spawn("defaults", |stop| defaults::run(store, stop));
                follow_counts(&mut tasks, hub.clone(), counts.clone(), None);
                Authority::Here
            }
        };

        let readiness = serve::readiness(&mut tasks, &*store);
        if matches!(authority, Authority::Global { .. }) {
            wait_for_policy(&mut tasks, hub.clone(), &readiness);
        }
        let pages = AdminPages { readiness: Some(readiness), metrics: Some(Arc::new(registry)) };
        serve::health(&mut tasks, listeners.health, pages);
        let zone_state = Arc::new(Zone {
            name: zone.clone(),
            store: store.clone(),
            hub: hub.clone(),
            history: history.clone(),
            authorities,
            ingresses,
            enroller: enroller.clone(),
            issuing: Issuing::default(),
            clock: clock.clone(),
            metrics: counts,
            // The global as well, where it is not a name.
            own: [addresses.api, addresses.sync, addresses.health].into_iter().chain(of_global).collect(),
        });
        let handler = Arc::new(Sessions { zone: zone_state });
        serve::sync(&mut tasks, listeners.sync, tls.sync.clone(), handler, server::Options::new(sessions));
        hub.start_settling();

        let unread = Unread::find(store.clone()).await.context("the store cannot be read")?;
        let answers = Arc::new(Answers {
            zone,
            hub: hub.clone(),
            reporter,
            reports: reports.clone(),
            store: store.clone(),
            unread,
            cut_off,
            history,
            stopping: tasks.stopping(),
        });
        let (written, proof) = (store.clone(), answers.clone());
        tasks.spawn("propagation", |stop| of_both.follow(written, proof, stop));
        let config = ApiConfig {
            store: store.clone(),
            authority,
            proof: answers.clone(),
            auth: home.auth(),
            admission: Arc::new(Gatekeeper { hub, enroller: enroller.clone(), store }),
            ages: Arc::new(move |origin: &Origin| {
                let ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
                ages.heard(origin, time::Instant::now())
            }),
            reports,
            hosts: server_tls::host_name().into_iter().collect(),
            extra: routes::inspect(answers.clone())
                .merge(routes::holds(holding))
                .merge(routes::zones(answers.clone()))
                .merge(status::route(answers))
                .merge(routes::tokens(Arc::new(TokenOffice::new(&home, enroller, clock)))),
        };
        serve::rest(&mut tasks, listeners.api, tls.api, config);
        Ok(Running::start(addresses, tasks, home))
    }
}

/// A zone that never heard of its global has no policy, and nothing to tell its proxies. Later, also after a restart, it
/// serves by what it has.
fn wait_for_policy(tasks: &mut Tasks, hub: Arc<Hub>, readiness: &Readiness) {
    let not_ready = readiness.guard("the first policy of the global");
    tasks.spawn("first policy", |stop| async move {
        let mut ticks = hub.ticks();
        let known =
            async { while hub.world().point(&Origin::Global).is_none() && ticks.changed().await.is_ok() {} };
        if stop.run_until_cancelled(known).await.is_some() {
            drop(not_ready);
        }
        stop.cancelled().await;
        Ok(())
    });
}

async fn salt(store: &dyn Store) -> anyhow::Result<Salt> {
    if let Some(kept) = store.secret_get(SALT).await? {
        let bytes = kept
            .expose()
            .try_into()
            .context("the salt of this zone's handles is damaged: restore the store")?;
        return Ok(Salt::new(bytes));
    }
    let bytes: [u8; 32] = rand::random();
    store.secret_put(SALT, SecretBytes::from(bytes.to_vec())).await?;
    Ok(Salt::new(&bytes))
}

/// Tells the planner of whom the token is revoked, before this returns and from then on.
fn follow_revocations(tasks: &mut Tasks, mut turned_away: watch::Receiver<BTreeSet<Peer>>, hub: Arc<Hub>) {
    let of_proxy = |peer: &Peer| match peer {
        Peer::Proxy { mesh, name } => Some(ProxyId { mesh: mesh.clone(), name: name.clone() }),
        Peer::Zone(_) | Peer::Ingress(_) => None,
    };
    let tell = move |turned_away: &mut watch::Receiver<BTreeSet<Peer>>| {
        let revoked = turned_away.borrow_and_update().iter().filter_map(of_proxy).collect();
        hub.input(Input::Revoked(revoked));
    };
    tell(&mut turned_away);
    tasks.spawn("revocations", |stop| async move {
        while let Some(Ok(())) = stop.run_until_cancelled(turned_away.changed()).await {
            tell(&mut turned_away);
        }
        stop.cancelled().await;
        Ok(())
    });
}

/// Tells the planner everything that is in the store before this returns, and every change from then on.
async fn follow_store(tasks: &mut Tasks, store: Arc<dyn Store>, hub: Arc<Hub>) -> anyhow::Result<()> {
    let mut watch = list(&*store, &hub).await?;
    tasks.spawn("planner", |stop| async move {
        let following = async {
            loop {
                let failed = match watch.next().await {
                    Ok(commit) => {
                        hub.input(Input::Committed(commit));
                        continue;
                    }
                    Err(store::Error::Closed) => return,
                    Err(error) => error,
                };
                warn!(error = %failed, "the planner lists the store anew");
                match list(&*store, &hub).await {
                    Ok(fresh) => watch = fresh,
                    Err(error) => {
                        warn!(%error, "the store cannot be read; trying again");
                        time::sleep(AGAIN).await;
                    }
                }
            }
        };
        let _ = stop.run_until_cancelled(following).await;
        stop.cancelled().await;
        Ok(())
    });
    Ok(())
}

/// Tells the planner all there is, and follows from there.
async fn list(store: &dyn Store, hub: &Arc<Hub>) -> Result<Watch, store::Error> {
    let listing = store.list(Filter::all()).await?;
    let watch = store.watch(listing.sequence);
    for proxy in listing.records.iter().filter_map(|record| ProxyId::of(&record.key)) {
        // What cannot be read is as if it had never been: the proxy says so itself when it is back.
        if let Ok(Some(life)) = lives::read(store, &proxy).await {
            hub.input(Input::Life { proxy, life });
        }
    }
    hub.input(Input::Listed(listing));
    Ok(watch)
}

/// After a read of the store that failed.
const AGAIN: Duration = Duration::from_secs(1);

fn join(
    tasks: &mut Tasks,
    membership: Membership<KeepSealed>,
    host: Arc<Upstream>,
    handle: Handle,
    options: link::Options,
) {
    tasks.spawn_at(Stage::Upward, "upstream", |stop| async move {
        membership.run(host, &handle, &options, &stop).await;
        Ok(())
    });
}

/// The zone's membership at the global stands among the secrets of its store.
struct KeepSealed(Arc<dyn Store>);

const MEMBERSHIP: &str = "membership";

impl Keep for KeepSealed {
    async fn load(&self) -> anyhow::Result<Option<Kept>> {
        let kept = self.0.secret_get(MEMBERSHIP).await?;
        kept.map(|kept| Kept::from_bytes(kept.expose()))
            .transpose()
            .context("reading the membership at the global")
    }

    async fn save(&self, kept: &Arc<Kept>) -> anyhow::Result<()> {
        Ok(self.0.secret_put(MEMBERSHIP, SecretBytes::from(kept.to_bytes().to_vec())).await?)
    }
}

/// Metrics, and the global where there is one, hear how many proxies run the newest, at most a few times a
/// second.
fn follow_counts(tasks: &mut Tasks, hub: Arc<Hub>, metrics: Metrics, upstream: Option<(ZoneName, Handle)>) {
    const AT_MOST_EVERY: Duration = Duration::from_millis(200);
    tasks.spawn("summary", |stop: CancellationToken| async move {
        let mut ticks = hub.ticks();
        let mut told: Option<ProxyCounts> = None;
        loop {
            let counts = hub.counts();
            metrics.count(counts, hub.left_out());
            if let Some((zone, upstream)) = upstream.as_ref().filter(|_| told != Some(counts)) {
                let value = serde_json::to_vec(&counts).map(Bytes::from)?;
                let origin = Origin::Zone(zone.clone());
                upstream.signal(questions::SUMMARY, Signal { origin, age: Duration::ZERO, value });
                told = Some(counts);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = ticks.changed() => changed?,
            }
            let _ = time::timeout(AT_MOST_EVERY, stop.cancelled()).await;
        }
    });
}

/// The global hears of every commit: also of one that concerns it in nothing but its number.
fn report_changes(tasks: &mut Tasks, store: Arc<dyn Store>, upstream: Handle) {
    tasks.spawn("originated", |stop| async move {
        let mut watch = store.watch(store.head().await?.sequence);
        let following = async {
            loop {
                upstream.changed(&Topic::ORIGINATED);
                if watch.next().await.is_err() {
                    // Whatever was missed is in what the global asks for next.
                    time::sleep(AGAIN).await;
                    if let Ok(head) = store.head().await {
                        watch = store.watch(head.sequence);
                    }
                }
            }
        };
        let _ = stop.run_until_cancelled(following).await;
        Ok(())
    });
}
