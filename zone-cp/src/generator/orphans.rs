//! When a service and a workload that nobody stands behind any more are to go.
//!
//! They stay for an hour, so that a workload which is moved or redeployed comes back to the service that
//! others know. The hour begins when this control plane notices, anew after a restart: longer is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::DocumentKey;
use tokio::time::Instant;

const STAYS: Duration = Duration::from_secs(60 * 60);

/// Generated documents without members, and since when.
#[derive(Debug, Default)]
pub(super) struct Orphans(BTreeMap<DocumentKey, Instant>);

impl Orphans {
    /// Takes who has no members at `now`. Who had none before and is not among them was adopted again.
    pub(super) fn found(&mut self, orphans: BTreeSet<DocumentKey>, now: Instant) {
        self.0.retain(|key, _| orphans.contains(key));
        for key in orphans {
            self.0.entry(key).or_insert(now);
        }
    }

    /// Whose time is over.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = &DocumentKey> {
        self.0.iter().filter(move |(_, since)| now >= **since + STAYS).map(|(key, _)| key)
    }

    /// Those that were due at `now` are gone.
    pub(super) fn removed(&mut self, now: Instant) {
        self.0.retain(|_, since| now < *since + STAYS);
    }

    /// When there is something to do again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().map(|since| *since + STAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_hour_and_who_comes_back_begins_anew() {
        let key =
            |name: &str| -> DocumentKey { format!("MeshService/default/east//{name}").parse().unwrap() };
        let due = |orphans: &Orphans, now| orphans.due(now).cloned().collect::<Vec<_>>();
        let start = Instant::now();
        let mut orphans = Orphans::default();
        assert_eq!(orphans.next(), None);
        orphans.found([key("cart")].into(), start);
        let later = start + Duration::from_secs(600);
        orphans.found([key("cart"), key("web")].into(), later);
        assert_eq!((orphans.next(), due(&orphans, start + STAYS)), (Some(start + STAYS), vec![key("cart")]));
        assert_eq!(due(&orphans, start + STAYS - Duration::from_millis(1)), []);
        orphans.removed(start + STAYS);
        assert_eq!(orphans.next(), Some(later + STAYS));
        orphans.found([key("cart"), key("web")].into(), start + STAYS);
        orphans.found([key("web")].into(), later + STAYS);
        assert_eq!((orphans.next(), due(&orphans, later + STAYS)), (Some(later + STAYS), vec![key("web")]));
        orphans.found([key("cart"), key("web")].into(), later + STAYS);
        assert_eq!(due(&orphans, start + 2 * STAYS), [key("web")], "the cart came back meanwhile");
    }
}
