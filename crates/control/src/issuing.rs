//! How many certificates are worked on at once, however many peers ask.
//!
//! When a control plane comes back, all who waited for it ask together. A few are served at a time, so that a store that
//! is slow has little in hand; a bounded number waits; and all others are told at once to ask again, which each does
//! after a pause of its own.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time;

/// As many as a store makes durable together, so that a crowd costs few writes.
pub const AT_ONCE: usize = 64;
/// How many wait for their turn, those who have it included.
pub const WAITING: usize = 512;
/// How long one waits: less than whoever asks does, so that nothing is signed for who has gone.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What is told to those who cannot be served now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many certificates are asked for at once: ask again")]
pub struct Busy;

/// The places there are.
pub struct Issuing {
    served: Semaphore,
    here: Semaphore,
}

/// The right to have one certificate made, until it is dropped.
pub struct Turn<'a> {
    _served: SemaphorePermit<'a>,
    _here: SemaphorePermit<'a>,
}

impl Default for Issuing {
    fn default() -> Self {
        Self { served: Semaphore::new(AT_ONCE), here: Semaphore::new(WAITING) }
    }
}

impl Issuing {
    /// In the order in which they came.
    pub async fn turn(&self) -> Result<Turn<'_>, Busy> {
        let here = self.here.try_acquire().map_err(|_| Busy)?;
        let served = time::timeout(PATIENCE, self.served.acquire()).await;
        let served = served.map_err(|_| Busy)?.map_err(|_| Busy)?;
        Ok(Turn { _served: served, _here: here })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    /// How many of a thousand that ask together are served, where each takes so long; and how many at a time.
    async fn a_thousand_ask(each: Duration) -> (usize, usize) {
        let (issuing, serving, most) =
            (Arc::new(Issuing::default()), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut asking = JoinSet::new();
        for _ in 0..1000 {
            let (issuing, serving, most) = (issuing.clone(), serving.clone(), most.clone());
            asking.spawn(async move {
                let _turn = issuing.turn().await?;
                most.fetch_max(serving.fetch_add(1, SeqCst) + 1, SeqCst);
                time::sleep(each).await;
                serving.fetch_sub(1, SeqCst);
                Ok::<_, Busy>(())
            });
        }
        let served = asking.join_all().await.into_iter().filter(Result::is_ok).count();
        (served, most.load(SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_crowd_a_few_are_served_at_a_time_and_the_rest_is_told_to_ask_again() {
        let start = Instant::now();
        assert_eq!(a_thousand_ask(Duration::from_millis(10)).await, (WAITING, AT_ONCE));
        assert!(start.elapsed() < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_whoever_asks() {
        let start = Instant::now();
        // The third turn would begin after 6 s.
        assert_eq!(a_thousand_ask(Duration::from_secs(3)).await, (2 * AT_ONCE, AT_ONCE));
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }
}
