//! Has a certificate of the identity that this proxy is to have, and always a fresh one.
//!
//! Each certificate has a key of its own, made here. Whoever holds an open connection is not concerned by the
//! next one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{CertificateError, OutOfTime, PrivateKey, Svid, SvidError, certificates_from_pem, utc};
use joining::{CERTIFICATE, spread};
use model::SpiffeId;
use sync::link::Handle;
use sync::session::AskError;
use tokio::sync::watch;
use tokio::time;
use tracing::{info, warn};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The time of day may be set meanwhile, so waiting for one is done in pieces.
const PIECE: Duration = Duration::from_secs(60 * 60);

/// When to ask for the next certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nobody says who this proxy is.
    Never,
    Now,
    At(SystemTime),
}

/// What there is now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Have {
    pub id: SpiffeId,
    /// At two thirds of its life, some sooner than others.
    pub renew_at: SystemTime,
    pub ends: SystemTime,
}

impl Have {
    pub fn new(svid: &Svid) -> Self {
        let renew_at = svid.renew_at(rand::random_range(0.0..1.0));
        Self { id: svid.id().clone(), renew_at, ends: svid.not_after() }
    }
}

pub fn due(wanted: Option<&SpiffeId>, have: Option<&Have>) -> Due {
    match (wanted, have) {
        (None, _) => Due::Never,
        (Some(wanted), Some(have)) if have.id == *wanted => Due::At(have.renew_at),
        (Some(_), _) => Due::Now,
    }
}

/// Why there is no new certificate yet.
#[derive(Debug, thiserror::Error)]
enum NotIssued {
    #[error(transparent)]
    Asked(#[from] AskError),
    #[error("the answer cannot be read: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the answer is no certificate of our key: {0}")]
    Svid(#[from] SvidError),
    #[error("it is of {found}, and this proxy is {wanted} now")]
    AnotherIdentity { found: SpiffeId, wanted: SpiffeId },
    #[error(transparent)]
    OutOfTime(#[from] OutOfTime),
}

/// Asks whenever a certificate is due, for as long as it is polled. `put` is done when it is in use.
pub async fn renew<F: Future<Output = ()>>(
    handle: &Handle,
    clock: &joining::Clock,
    mut wanted: watch::Receiver<Option<SpiffeId>>,
    mut have: Option<Have>,
    put: impl Fn(Arc<Svid>) -> F,
) {
    let mut failures = 0;
    loop {
        let id = wanted.borrow_and_update().clone();
        let is_due = async {
            match due(id.as_ref(), have.as_ref()) {
                Due::Never => std::future::pending().await,
                Due::Now => {}
                Due::At(at) => wait_until(clock, at).await,
            }
            if handle.peer().is_none() {
                handle.connected().await;
                let ends = have.as_ref().filter(|have| Some(&have.id) == id.as_ref()).map(|have| have.ends);
                let left = ends.and_then(|ends| ends.duration_since(clock.now()).ok()).unwrap_or_default();
                time::sleep(spread(left, rand::random_range(0.0..1.0))).await;
            }
        };
        let changed = tokio::select! {
            changed = wanted.changed() => Some(changed),
            () = is_due => None,
        };
        match (changed, id) {
            (Some(Ok(())), _) => failures = 0,
            // Nobody will want another.
            (Some(Err(_)), _) => return,
            (None, None) => {}
            (None, Some(id)) => match ask(handle, clock, &id).await {
                Ok(svid) => {
                    failures = 0;
                    info!(%id, until = utc(svid.not_after()), "certified");
                    have = Some(Have::new(&svid));
                    put(Arc::new(svid)).await;
                }
                Err(error) => {
                    failures += 1;
                    warn!(%id, %error, "no certificate yet");
                    // Who this proxy is may change, and then there is no reason to wait.
                    let _ =
                        time::timeout(pause(failures, rand::random_range(0.5..=1.0)), wanted.changed()).await;
                }
            },
        }
    }
}

async fn ask(handle: &Handle, clock: &joining::Clock, wanted: &SpiffeId) -> Result<Svid, NotIssued> {
    let key = PrivateKey::generate();
    let answer = handle.ask(CERTIFICATE, key.request().der().to_vec(), ANSWER_LIMIT).await?;
    let chain = certificates_from_pem(&String::from_utf8_lossy(&answer))?;
    let svid = Svid::new(chain, &key)?;
    if svid.id() != wanted {
        return Err(NotIssued::AnotherIdentity { found: svid.id().clone(), wanted: wanted.clone() });
    }
    svid.check_fresh(clock.now())?;
    Ok(svid)
}

async fn wait_until(clock: &joining::Clock, due: SystemTime) {
    while let Ok(left) = due.duration_since(clock.now())
        && !left.is_zero()
    {
        time::sleep(left.min(PIECE)).await;
    }
}

fn pause(failures: u32, dice: f64) -> Duration {
    let doubled = SHORTEST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_asked_for_when_there_is_none_of_this_identity_or_the_time_has_come() {
        let (web, cart): (SpiffeId, SpiffeId) = (
            "spiffe://default.east.mesh.local/workload/web".parse().unwrap(),
            "spiffe://default.east.mesh.local/workload/cart".parse().unwrap(),
        );
        let renew_at = SystemTime::now();
        let have = Have { id: web.clone(), renew_at, ends: renew_at };
        let cases = [
            ("nobody", None, None, Due::Never),
            ("nobody any more", None, Some(&have), Due::Never),
            ("the first", Some(&web), None, Due::Now),
            ("the next", Some(&web), Some(&have), Due::At(renew_at)),
            ("another identity", Some(&cart), Some(&have), Due::Now),
        ];
        for (why, wanted, have, want) in cases {
            assert_eq!(due(wanted, have), want, "{why}");
        }
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        assert_eq!(pause(1, 1.0), SHORTEST_PAUSE);
        assert_eq!(pause(4, 1.0), Duration::from_millis(800));
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }
}
