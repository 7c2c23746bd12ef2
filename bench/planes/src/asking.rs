//! Requests of an application through its own sidecar: one after the other until something shows, or a steady number
//! a second, however the answers come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use demo::client::{Client, Outcome};
use demo::members::Speaks;
use demo::shop::USUAL_PATH;
use http::Method;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mesh::LIMIT;

/// A request that takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two requests of who waits for something.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two requests of a load: fifty a second.
pub const EVERY: Duration = Duration::from_millis(20);

/// What one request came to.
pub type Answer = Result<Outcome, String>;

/// Asks until an answer is wanted, and says when that was complete.
pub async fn until(through: SocketAddr, wanted: impl Fn(&Answer) -> bool) -> anyhow::Result<Instant> {
    let mut client = None;
    let mut last = None;
    let asked = async {
        loop {
            let answer = ask(&mut client, through).await;
            if wanted(&answer) {
                return Instant::now();
            }
            last = Some(answer);
            time::sleep(PAUSE).await;
        }
    };
    let done = time::timeout(LIMIT, asked).await;
    done.with_context(|| format!("not within {LIMIT:?}, the last was {last:?}"))
}

pub fn is_answered(answer: &Answer) -> bool {
    matches!(answer, Ok(Outcome::Answered(_)))
}

pub fn is_denied(answer: &Answer) -> bool {
    matches!(answer, Ok(Outcome::Denied { .. }))
}

/// Whether the application of that name answered.
pub fn is_answered_by(answer: &Answer, name: &str) -> bool {
    matches!(answer, Ok(Outcome::Answered(answer)) if answer.service == name)
}

async fn ask(client: &mut Option<Client>, through: SocketAddr) -> Answer {
    let asked = time::timeout(ANSWER_LIMIT, async {
        Client::kept(client, Speaks::Http1, through).await?.ask(Method::GET, USUAL_PATH, Bytes::new()).await
    });
    let answer = asked.await.unwrap_or_else(|_| bail!("no answer within {ANSWER_LIMIT:?}"));
    if answer.is_err() {
        *client = None;
    }
    answer.map_err(|error| format!("{error:#}"))
}

/// Fifty requests a second, until [`Load::finish`] or until it is dropped. It waits for no answer: each request takes a
/// connection that is idle, or a new one.
pub struct Load {
    shared: Arc<Shared>,
    stop: CancellationToken,
    requests: TaskTracker,
}

struct Shared {
    through: SocketAddr,
    idle: Mutex<Vec<Client>>,
    ended: Mutex<Vec<Request>>,
}

pub struct Request {
    pub begun: Instant,
    pub ended: Instant,
    pub answer: Answer,
}

impl Load {
    pub fn start(through: SocketAddr) -> Self {
        let shared = Arc::new(Shared { through, idle: Mutex::default(), ended: Mutex::default() });
        let load = Self { shared, stop: CancellationToken::new(), requests: TaskTracker::new() };
        let (shared, stop, requests) = (load.shared.clone(), load.stop.clone(), load.requests.clone());
        load.requests.spawn(async move {
            let mut ticks = time::interval(EVERY);
            // Open: what was missed is made up for.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let shared = shared.clone();
                requests.spawn(async move { shared.ask().await });
            }
        });
        load
    }

    /// Lets what is under way end, and tells of everything, in the order in which it ended.
    pub async fn finish(self) -> Vec<Request> {
        self.stop.cancel();
        self.requests.close();
        self.requests.wait().await;
        std::mem::take(&mut *lock(&self.shared.ended))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    async fn ask(&self) {
        let begun = Instant::now();
        let mut client = lock(&self.idle).pop();
        let answer = ask(&mut client, self.through).await;
        lock(&self.idle).extend(client);
        lock(&self.ended).push(Request { begun, ended: Instant::now(), answer });
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What failed after something went.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    pub count: usize,
    /// Until the end of the last one; zero where nothing failed.
    pub last_after: Duration,
    /// How many failed for each reason.
    pub reasons: BTreeMap<String, usize>,
}

/// Nothing may have failed before.
pub fn failures_after(gone: Instant, requests: &[Request]) -> anyhow::Result<Failures> {
    let mut failures = Failures::default();
    let mut answered = 0;
    for request in requests {
        let why = match &request.answer {
            Ok(Outcome::Answered(_)) => {
                answered += 1;
                continue;
            }
            Ok(Outcome::Denied { .. }) => "denied",
            Err(why) => why,
        };
        if request.ended < gone {
            bail!("a request failed before anything went: {why}");
        }
        failures.count += 1;
        failures.last_after = failures.last_after.max(request.ended - gone);
        *failures.reasons.entry(why.to_owned()).or_default() += 1;
    }
    if answered == 0 {
        bail!("nothing was ever answered: {:?}", failures.reasons);
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use demo::shop;

    use super::*;

    #[test]
    fn what_failed_is_counted_from_the_moment_that_something_went() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let ok = || {
            Ok(Outcome::Answered(shop::Answer {
                service: "a".into(),
                zone: "b".into(),
                client: None,
                received: 0,
            }))
        };
        let request = |ended, answer| Request { begun: start, ended: at(ended), answer };
        let gone = at(100);
        let requests = [
            request(50, ok()),
            request(150, Err("503".to_owned())),
            request(180, ok()),
            request(190, Ok(Outcome::Denied { decision: None })),
            request(250, ok()),
        ];
        let failures = failures_after(gone, &requests).unwrap();
        assert_eq!((failures.count, failures.last_after), (2, Duration::from_millis(90)));
        assert!(failures_after(at(160), &requests).is_err(), "one failed before");
        assert!(failures_after(gone, &requests[1..2]).is_err(), "nothing was answered");
    }
}
