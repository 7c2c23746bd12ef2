//! How a control plane is served: ports are bound first, then each server is a part of the process.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use api::ApiConfig;
use runtime::{AdminPages, Readiness, ReadyLine, Stage, Tasks, admin};
use rustls::ServerConfig;
use store::Store;
use sync::server::{self, Handler};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the parts of a control plane may take to finish.
pub const GRACE: Duration = Duration::from_secs(10);

/// Where a control plane is reached; or, before it is bound, where it is to be (port 0: any).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    pub api: SocketAddr,
    pub sync: SocketAddr,
    pub health: SocketAddr,
}

impl Addresses {
    /// On this machine alone, at ports of the kernel's choice.
    pub fn any_local() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { api: any, sync: any, health: any }
    }

    pub fn ready_line(&self, program: &'static str) -> ReadyLine {
        ReadyLine::new(program)
            .with("api", format_args!("https://{}", self.api))
            .with("sync", self.sync)
            .with("health", self.health)
    }
}

/// The bound ports, before anyone serves them.
pub struct Listeners {
    pub api: TcpListener,
    pub sync: TcpListener,
    pub health: TcpListener,
}

impl Listeners {
    pub async fn bind(wanted: &Addresses) -> anyhow::Result<Self> {
        Ok(Self {
            api: bind("API", wanted.api).await?,
            sync: bind("sync", wanted.sync).await?,
            health: bind("health", wanted.health).await?,
        })
    }

    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            api: self.api.local_addr()?,
            sync: self.sync.local_addr()?,
            health: self.health.local_addr()?,
        })
    }
}

async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("could not bind the {what} address {address}"))
}

/// Health, readiness and metrics: the last that is served, so that whoever looks sees how the end comes.
pub fn health(tasks: &mut Tasks, listener: TcpListener, pages: AdminPages) {
    tasks.spawn_at(Stage::Shown, "health", |stop| admin::serve(listener, pages, stop));
}

/// Of a control plane: not ready while its store cannot be written, when what is known goes on being served and
/// nothing new can be promised; nor from when it is told to stop.
pub fn readiness(tasks: &mut Tasks, store: &dyn Store) -> Readiness {
    let readiness = Readiness::new();
    let mut fault = store.fault();
    let told = readiness.clone();
    tasks.spawn("store", |stop| async move {
        let following = async {
            while fault.wait_for(Option::is_some).await.is_ok() {
                let _not_ready = told.guard("the disk of the store");
                let _ = fault.wait_for(Option::is_none).await;
            }
        };
        let _ = stop.run_until_cancelled(following).await;
        stop.cancelled().await;
        Ok(())
    });
    let (stopping, told) = (tasks.stopping(), readiness.clone());
    tasks.spawn_at(Stage::Shown, "readiness", |ended| async move {
        stopping.cancelled().await;
        let _not_ready = told.guard("the end");
        ended.cancelled().await;
        Ok(())
    });
    readiness
}

/// Why a store takes no writes now, for people; none while it does.
pub fn unwritable(store: &dyn Store) -> Option<String> {
    let fault = store.fault().borrow().clone()?;
    Some(fault.source().map_or_else(|| fault.to_string(), |cause| format!("{fault} ({cause})")))
}

/// The REST API. A new certificate counts for connections from then on; those that are open are drained.
pub fn rest(
    tasks: &mut Tasks,
    listener: TcpListener,
    mut tls: watch::Receiver<Arc<ServerConfig>>,
    config: ApiConfig,
) {
    tasks.spawn_at(Stage::Doors, "api", |stop| async move {
        // Each certificate has a server of its own on the same socket, so that no caller finds it closed.
        let listener = listener.into_std()?;
        let mut servers = JoinSet::new();
        let mut _latest: Option<DropGuard> = None;
        loop {
            let socket = TcpListener::from_std(listener.try_clone()?)?;
            let (current, config, server) =
                (tls.borrow_and_update().clone(), copy(&config), stop.child_token());
            _latest = Some(server.clone().drop_guard());
            servers.spawn(async move {
                api::serve(socket, current, config, server.clone()).await;
                server.is_cancelled()
            });
            loop {
                tokio::select! {
                    ended = servers.join_next() => match ended {
                        _ if stop.is_cancelled() => break,
                        Some(Ok(true)) => {}
                        _ => bail!("the API is served no more"),
                    },
                    Ok(()) = tls.changed() => break,
                    () = stop.cancelled() => break,
                }
            }
            if stop.is_cancelled() {
                while servers.join_next().await.is_some() {}
                return Ok(());
            }
        }
    });
}

fn copy(config: &ApiConfig) -> ApiConfig {
    let ApiConfig { store, authority, proof, auth, admission, ages, reports, hosts, extra } = config;
    ApiConfig {
        store: store.clone(),
        authority: authority.clone(),
        proof: proof.clone(),
        auth: auth.clone(),
        admission: admission.clone(),
        ages: ages.clone(),
        reports: reports.clone(),
        hosts: hosts.clone(),
        extra: extra.clone(),
    }
}

/// Sessions with those below.
pub fn sync<H: Handler>(
    tasks: &mut Tasks,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    handler: Arc<H>,
    options: server::Options,
) {
    tasks.spawn_at(Stage::Doors, "sync", |stop| async move {
        server::serve(listener, tls, handler, options, stop).await.context("the sync server ended")
    });
}

/// A control plane that runs. When it is dropped it stops by itself, though nobody waits for it.
pub struct Running {
    pub addresses: Addresses,
    stop: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
    _stop_when_dropped: DropGuard,
}

impl Running {
    /// Runs the parts until somebody stops them or one of them ends; `release` is kept until all have ended,
    /// and dropped then, so that whoever waits for the end finds everything free.
    pub fn start(addresses: Addresses, tasks: Tasks, release: impl Send + 'static) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ended = tokio::spawn(async move {
            let ended = tasks.run(stopped.cancelled(), GRACE).await;
            drop(release);
            ended
        });
        Self { addresses, _stop_when_dropped: stop.clone().drop_guard(), stop, ended }
    }

    /// Asks it to stop, and returns at once.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops it, and waits until everything is released: the same folder and ports can be used again.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop();
        self.wait().await
    }

    /// Waits until it ends, by [`Self::stop`] or by a failure.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        (&mut self.ended).await.context("the control plane panicked")?
    }

    /// Runs until `shutdown`, or until it fails.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown => self.shutdown().await,
            ended = &mut self.ended => ended.context("the control plane panicked")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use api::shapes::RevisionState;
    use api::{AdmitAll, Authority, NoSuchRevision, Proof};
    use futures::future::BoxFuture;
    use identity::{ControlCa, ServerRole, api_client_config, api_server_config};
    use model::{Origin, Version};
    use store::MemoryStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time;
    use tokio_rustls::TlsConnector;

    use super::*;

    struct NoProof;

    impl Proof for NoProof {
        fn revision(
            &self,
            _version: Version,
            _wait: Duration,
        ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
            Box::pin(async { Err(NoSuchRevision::NotHere) })
        }
    }

    fn config() -> ApiConfig {
        ApiConfig {
            store: MemoryStore::new(Origin::Global),
            authority: Authority::Here,
            proof: Arc::new(NoProof),
            auth: Arc::new(|_: &str| None),
            admission: Arc::new(AdmitAll),
            ages: Arc::new(|_: &Origin| None),
            reports: Arc::new(()),
            hosts: Default::default(),
            extra: Default::default(),
        }
    }

    /// The certificate that the API shows.
    async fn shown(address: SocketAddr, ca: &ControlCa) -> Vec<u8> {
        let tls = api_client_config(&ca.ca_pem(), Some(ServerRole::Global)).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(tls).connect(ServerRole::Global.tls_name(), stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    #[tokio::test]
    async fn a_new_certificate_is_shown_without_refusing_anyone_and_the_port_is_free_at_the_end() {
        let now = SystemTime::now();
        let ca = ControlCa::create(ServerRole::Global, now).unwrap();
        let credentials = [0, 1].map(|_| ca.server_credential(&[], now).unwrap());
        let tls = watch::Sender::new(api_server_config(&credentials[0]).unwrap());
        let listeners = Listeners::bind(&Addresses::any_local()).await.unwrap();
        let addresses = listeners.addresses().unwrap();
        let mut tasks = Tasks::new();
        rest(&mut tasks, listeners.api, tls.subscribe(), config());
        let running = Running::start(addresses, tasks, ());

        let leaves = credentials.each_ref().map(|credential| credential.chain()[0].to_vec());
        assert_eq!(shown(addresses.api, &ca).await, leaves[0]);
        tls.send_replace(api_server_config(&credentials[1]).unwrap());
        let renewed = async { while shown(addresses.api, &ca).await != leaves[1] {} };
        time::timeout(GRACE, renewed).await.unwrap();

        running.shutdown().await.unwrap();
        TcpListener::bind(addresses.api).await.unwrap();
    }

    /// What the readiness page says; none where nobody answers.
    async fn readiness_page(address: SocketAddr) -> Option<String> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    #[tokio::test]
    async fn what_stops_says_that_it_is_not_ready_until_everything_has_finished() {
        let listeners = Listeners::bind(&Addresses::any_local()).await.unwrap();
        let addresses = listeners.addresses().unwrap();
        let mut tasks = Tasks::new();
        let pages = AdminPages {
            readiness: Some(readiness(&mut tasks, &*MemoryStore::new(Origin::Global))),
            ..AdminPages::default()
        };
        health(&mut tasks, listeners.health, pages);
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("slow", |stop| async move {
            stop.cancelled().await;
            finished.await?;
            Ok(())
        });
        let running = Running::start(addresses, tasks, ());
        let said = readiness_page(addresses.health).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");

        running.stop();
        let told = async {
            while !readiness_page(addresses.health).await.unwrap().contains("waiting for the end") {
                tokio::task::yield_now().await;
            }
        };
        time::timeout(GRACE, told).await.unwrap();
        finish.send(()).unwrap();
        running.wait().await.unwrap();
        assert_eq!(readiness_page(addresses.health).await, None);
    }

    #[tokio::test]
    async fn a_part_that_fails_ends_it_all_and_is_named() {
        let listeners = Listeners::bind(&Addresses::any_local()).await.unwrap();
        let mut tasks = Tasks::new();
        tasks.spawn("store", |_| async { bail!("the disk is full") });
        let running = Running::start(listeners.addresses().unwrap(), tasks, ());
        let error = time::timeout(GRACE, running.wait()).await.unwrap().unwrap_err();
        assert_eq!(format!("{error:#}"), "store failed: the disk is full");
    }
}
