//! Puts the parts together, in the order in which they need each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use api::{ApiConfig, Authority, routes, status};
use control::{
    Enroller, Home, Listeners, Running, ServerTls, TokenOffice, Unread, defaults, metrics, presence, serve,
    server_tls,
};
use model::Origin;
use prometheus_client::registry::Registry;
use runtime::{AdminPages, Tasks};
use sync::{link, server, session};
use tracing::warn;

use crate::admission::GlobalAdmission;
use crate::answers::Answers;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::proof::GlobalProof;
use crate::zones::{self, Zones};

/// The global control plane, to be started in any process.
pub struct GlobalCp;

impl GlobalCp {
    /// Serves when this returns. Everything is released when [`Running::shutdown`] does.
    pub async fn start(options: Options) -> anyhow::Result<Running> {
        let clock = options.clock.clone();
        // Ports first: whoever cannot have them should not touch the folder.
        let listeners = Listeners::bind(&options.addresses()).await?;
        let addresses = listeners.addresses()?;
        let home = Home::open(&options.data_dir, Origin::Global, clock.now())
            .await
            .with_context(|| format!("cannot use the data folder {}", options.data_dir.display()))?;
        defaults::make(&*home.store).await.context("the default mesh cannot be made")?;
        let unread = Unread::find(home.store.clone()).await.context("the store cannot be read")?;

        let hosts: Vec<String> = server_tls::host_name().into_iter().collect();
        let (tls, renewal) = ServerTls::start(home.ca.clone(), hosts.clone(), clock.clone())?;
        let enroller = Arc::new(Enroller::open(home.clone()).await?);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let zones = Zones::new(home.clone(), enroller.clone(), clock.clone(), metrics);
        zones.recall().await.context("what was refused cannot be read")?;
        // Before anybody comes under the same name. A disk that is full keeps nobody from starting: it is tried again.
        if let Err(error) = zones.sweep().await {
            warn!(%error, "what is left of removed zones cannot be forgotten yet");
        }
        zones.remember_ages().await.context("when zones were last heard of cannot be read")?;
        let of_zones = zones.clone();
        metrics::show_ages(&mut registry, move || of_zones.everyone());
        let of_both = control::Metrics::register(&mut registry, &*home.store);
        let (authority_ends, server_ends) = (home.ca.validity().not_after, tls.ends.clone());
        metrics::show_ends(&mut registry, move || {
            vec![("authority".to_owned(), authority_ends), ("server".to_owned(), *server_ends.borrow())]
        });
        let sessions = link::Options::new(env!("CARGO_PKG_VERSION"), session::Limits::CONTROL_PLANE);
        metrics::show_sessions(&mut registry, [("zones", sessions.counters.clone())]);

        let mut tasks = Tasks::new();
        let readiness = serve::readiness(&mut tasks, &*home.store);
        tasks.spawn("certificate", |stop| renewal.run(stop));
        tasks.spawn("admissions", {
            let (enroller, clock) = (enroller.clone(), clock.clone());
            async move |stop| {
                enroller.run(&clock, stop).await;
                Ok(())
            }
        });
        tasks.spawn("defaults", |stop| defaults::run(home.store.clone(), stop));
        let followed = zones.clone();
        let (heard, keeping, at) = (zones.clone(), home.store.clone(), clock.clone());
        tasks.spawn("ages", |stop| presence::keep(keeping, at, move || heard.ages(), stop));
        tasks.spawn("zones", |stop| zones::follow(followed, stop));

        let answers = Answers::new(zones.clone(), clock.clone(), authority_ends, unread);
        let answers = Arc::new(answers);
        let proof = Arc::new(GlobalProof::new(zones.clone(), tasks.stopping()));
        let of_zones = zones.clone();
        let config = ApiConfig {
            store: home.store.clone(),
            authority: Authority::Here,
            proof: proof.clone(),
            auth: home.auth(),
            admission: Arc::new(GlobalAdmission::new(zones.clone())),
            reports: zones.reports().clone(),
            hosts: hosts.into_iter().collect::<BTreeSet<_>>(),
            ages: Arc::new(move |origin: &Origin| Some(of_zones.heard(origin.zone()?).told())),
            extra: routes::zones(answers.clone())
                .merge(routes::holds(answers.clone()))
                .merge(status::route(answers.clone()))
                .merge(routes::inspect(answers))
                .merge(routes::tokens(Arc::new(TokenOffice::new(&home, enroller, clock)))),
        };
        let written = home.store.clone();
        tasks.spawn("propagation", |stop| of_both.follow(written, proof, stop));
        serve::rest(&mut tasks, listeners.api, tls.api, config);
        serve::sync(&mut tasks, listeners.sync, tls.sync, Arc::new(zones), server::Options::new(sessions));
        let pages = AdminPages { readiness: Some(readiness), metrics: Some(Arc::new(registry)) };
        serve::health(&mut tasks, listeners.health, pages);
        Ok(Running::start(addresses, tasks, home))
    }
}
