//! Decides which stranger gets one of the few places, so that nobody can take them all.
//!
//! An address never gets more places than it leaves free. One that comes with many at once, as a network
//! behind one address does, may take half of them; the next half of the rest; and whoever comes from an address
//! of which nobody is there gets in as long as any place is free.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clones share the places.
#[derive(Clone)]
pub(super) struct Strangers {
    free: Arc<Semaphore>,
    all: u32,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Free again when it is dropped.
pub(super) struct Place {
    source: IpAddr,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Strangers {
    pub(super) fn new(all: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(all as usize)), all, held: Arc::default() }
    }

    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let source = source(address);
        let mut held = lock(&self.held);
        let theirs = held.get(&source).copied().unwrap_or_default();
        if theirs >= self.free.available_permits() {
            return None;
        }
        let permit = self.free.clone().try_acquire_owned().ok()?;
        held.insert(source, theirs + 1);
        drop(held);
        Some(Place { source, held: self.held.clone(), _permit: permit })
    }

    /// Waits until every place is free.
    pub(super) async fn all_gone(&self) {
        let _ = self.free.acquire_many(self.all).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if let Some(theirs) = held.get_mut(&self.source) {
            *theirs -= 1;
            if *theirs == 0 {
                held.remove(&self.source);
            }
        }
    }
}

/// Whoever has one IPv6 address has a network of them.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

fn lock(held: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    // Nothing can panic under it.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as get in.
    fn crowd(strangers: &Strangers, address: &str) -> Vec<Place> {
        let address = address.parse().unwrap();
        std::iter::from_fn(|| strangers.enter(address)).take(1000).collect()
    }

    #[tokio::test]
    async fn no_address_takes_the_places_of_all_others() {
        let strangers = Strangers::new(256);
        let mut crowds = Vec::new();
        for (address, gets) in
            [("10.0.0.1", 128), ("10.0.0.2", 64), ("2001:db8::1", 32), ("2001:db8::ffff:1", 0)]
        {
            let crowd = crowd(&strangers, address);
            assert_eq!(crowd.len(), gets, "{address}");
            crowds.push(crowd);
        }
        assert_eq!(crowd(&strangers, "::ffff:10.0.0.1").len(), 0, "the first, by another name");
        assert!(strangers.enter("2001:db8:0:1::1".parse().unwrap()).is_some(), "another network");
        // Who leaves makes room for whoever has less.
        crowds.remove(0);
        assert_eq!(crowd(&strangers, "10.0.0.3").len(), 80);
        assert!(strangers.enter("10.0.0.1".parse().unwrap()).is_some());
        drop(crowds);
        strangers.all_gone().await;
        assert!(lock(&strangers.held).is_empty());
    }

    #[test]
    fn the_last_place_is_for_an_address_of_which_nobody_is_there() {
        let strangers = Strangers::new(2);
        let places = (1..=2).map(|n| strangers.enter(IpAddr::from([10, 0, 0, n])));
        let places: Vec<_> = places.collect();
        assert!(places.iter().all(Option::is_some));
        assert!(strangers.enter("10.0.0.3".parse().unwrap()).is_none(), "full");
    }
}
