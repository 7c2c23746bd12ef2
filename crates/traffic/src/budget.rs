//! How many requests may be sent again after an application may have seen them.
//!
//! Retries multiply load where it hurts most: at a service that fails. So of the requests that are active only
//! a part may be retries, however many a policy would allow. What never reached an application is sent
//! elsewhere outside of this.

use std::cell::Cell;
use std::rc::Rc;

/// In percent of the active requests.
const SHARE: u32 = 20;
/// So many are always allowed: a share of little is nothing.
const AT_LEAST: u32 = 3;

/// The retries of one destination on one worker.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    retrying: Rc<Cell<u32>>,
}

impl Budget {
    /// One more retry while `active` requests are open, retries included; none where that is too many. It
    /// counts until it is dropped.
    pub fn retry(&self, active: u32) -> Option<Retry> {
        let allowed = (u64::from(active) * u64::from(SHARE) / 100).max(u64::from(AT_LEAST));
        if u64::from(self.retrying.get()) >= allowed {
            return None;
        }
        self.retrying.set(self.retrying.get() + 1);
        Some(Retry(self.retrying.clone()))
    }
}

/// A retry, while it goes on.
#[derive(Debug)]
pub struct Retry(Rc<Cell<u32>>);

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_active_requests_may_be_retries_and_three_always() {
        let cases = [(0, 3), (1, 3), (15, 3), (19, 3), (20, 4), (100, 20), (u32::MAX, 1000)];
        for (active, want) in cases {
            let budget = Budget::default();
            let retries: Vec<Retry> = std::iter::from_fn(|| budget.retry(active)).take(1000).collect();
            assert_eq!(retries.len(), want, "of {active}");
        }
    }

    #[test]
    fn a_retry_that_ended_makes_room_for_another() {
        let budget = Budget::default();
        let mut retries: Vec<Retry> = std::iter::from_fn(|| budget.retry(0)).collect();
        assert!(budget.retry(0).is_none());
        retries.pop();
        assert!(budget.retry(0).is_some(), "and this one is over again");
        assert!(budget.retry(0).is_some());
    }
}
