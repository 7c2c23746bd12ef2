//! The certificate that a control plane serves with: fresh at each start, renewed while it runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{ControlCa, IssueError, TlsError, api_server_config, server_config};
use model::ResourceName;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use runtime::Clock;

/// The configurations to serve with, always the latest.
#[derive(Clone)]
pub struct ServerTls {
    pub api: watch::Receiver<Arc<ServerConfig>>,
    pub sync: watch::Receiver<Arc<ServerConfig>>,
    /// When the certificate in them ends.
    pub ends: watch::Receiver<SystemTime>,
}

/// Makes the next certificate in time. Run it for as long as the control plane serves.
pub struct Renewal {
    ca: Arc<ControlCa>,
    hosts: Vec<String>,
    clock: Clock,
    api: watch::Sender<Arc<ServerConfig>>,
    sync: watch::Sender<Arc<ServerConfig>>,
    ends: watch::Sender<SystemTime>,
    due: SystemTime,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    #[error("no server certificate could be made")]
    Issue(#[from] IssueError),
    #[error("the server certificate cannot be served")]
    Tls(#[from] TlsError),
}

/// At which share of a certificate's life the next one is made.
const RENEW_AT: f64 = 2.0 / 3.0;

/// How often the clock is looked at: it may jump, and a failed renewal is tried again.
const LOOK: Duration = Duration::from_secs(60 * 60);

impl ServerTls {
    /// `hosts` are names or addresses under which others dial this control plane, for clients that compare
    /// them; ours do not.
    pub fn start(
        ca: Arc<ControlCa>,
        hosts: Vec<String>,
        clock: Clock,
    ) -> Result<(Self, Renewal), ServerTlsError> {
        let Made { api, sync, ends, due } = make(&ca, &hosts, clock.now())?;
        let (api, sync) = (watch::Sender::new(api), watch::Sender::new(sync));
        let ends = watch::Sender::new(ends);
        let tls = Self { api: api.subscribe(), sync: sync.subscribe(), ends: ends.subscribe() };
        Ok((tls, Renewal { ca, hosts, clock, api, sync, ends, due }))
    }
}

impl Renewal {
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let left = self.due.duration_since(self.clock.now()).unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // One that is overdue was just tried in vain.
                () = time::sleep(if left.is_zero() { LOOK } else { left.min(LOOK) }) => {}
            }
            if self.clock.now() >= self.due {
                self.renew();
            }
        }
    }

    fn renew(&mut self) {
        match make(&self.ca, &self.hosts, self.clock.now()) {
            Ok(Made { api, sync, ends, due }) => {
                self.api.send_replace(api);
                self.sync.send_replace(sync);
                self.ends.send_replace(ends);
                self.due = due;
                info!("serving with a new certificate");
            }
            Err(error) => warn!(%error, "the server certificate could not be renewed"),
        }
    }
}

struct Made {
    api: Arc<ServerConfig>,
    sync: Arc<ServerConfig>,
    ends: SystemTime,
    due: SystemTime,
}

fn make(ca: &ControlCa, hosts: &[String], now: SystemTime) -> Result<Made, ServerTlsError> {
    let credential = ca.server_credential(hosts, now)?;
    Ok(Made {
        api: api_server_config(&credential)?,
        sync: server_config(ca, &credential)?,
        ends: credential.validity().not_after,
        due: credential.renew_at(RENEW_AT, 0.0),
    })
}

/// The name of this machine, where it has one that can stand in a certificate.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    name.parse::<ResourceName>().is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use identity::ServerRole;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_comes_before_the_old_one_ends() {
        let start = SystemTime::now();
        let now = Arc::new(Mutex::new(start));
        let clock = {
            let now = now.clone();
            Clock::new(move || *now.lock().unwrap())
        };
        let ca = Arc::new(ControlCa::create(ServerRole::Global, start).unwrap());
        let (mut tls, renewal) = ServerTls::start(ca, vec!["cp.example.org".into()], clock).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(renewal.run(stop.clone()));

        *now.lock().unwrap() = start + 200 * DAY;
        let early = time::timeout(3 * LOOK, tls.sync.changed()).await;
        assert!(early.is_err(), "not before two thirds of its life");
        *now.lock().unwrap() = start + 300 * DAY;
        time::timeout(3 * LOOK, tls.sync.changed()).await.unwrap().unwrap();
        assert!(tls.api.has_changed().unwrap());

        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
