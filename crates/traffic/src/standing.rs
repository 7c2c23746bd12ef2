//! What was once allowed, and may cease to be.
//!
//! Each open connection has a standing. Whoever carries its bytes watches it; whoever decides anew revokes it
//! and waits until the last watcher is gone, and only then says that the decision is in force.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Whether something may go on. Revoked once, for good.
#[derive(Debug, Default)]
pub struct Standing {
    revoked: Cell<bool>,
    watchers: RefCell<Watchers>,
}

#[derive(Debug, Default)]
struct Watchers {
    wakers: Vec<Option<Waker>>,
    /// Slots of `wakers` that nobody holds.
    free: Vec<usize>,
    waits_for_end: Option<Waker>,
}

impl Watchers {
    fn none_left(&self) -> bool {
        self.wakers.len() == self.free.len()
    }
}

impl Standing {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    pub fn revoke(&self) {
        self.revoked.set(true);
        let wakers: Vec<Waker> =
            self.watchers.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn watch(self: &Rc<Self>) -> Watch {
        let mut watchers = self.watchers.borrow_mut();
        let slot = match watchers.free.pop() {
            Some(slot) => slot,
            None => {
                watchers.wakers.push(None);
                watchers.wakers.len() - 1
            }
        };
        Watch { standing: self.clone(), slot }
    }

    /// Completes when nobody watches any more. One waits at a time.
    pub async fn unwatched(&self) {
        poll_fn(|cx| {
            let mut watchers = self.watchers.borrow_mut();
            if watchers.none_left() {
                return Poll::Ready(());
            }
            watchers.waits_for_end = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Held by what depends on a standing, as long as it does.
#[derive(Debug)]
pub struct Watch {
    standing: Rc<Standing>,
    slot: usize,
}

impl Watch {
    pub fn is_revoked(&self) -> bool {
        self.standing.is_revoked()
    }

    pub fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.standing.is_revoked() {
            return Poll::Ready(());
        }
        let waker = &mut self.standing.watchers.borrow_mut().wakers[self.slot];
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub async fn revoked(&self) {
        poll_fn(|cx| self.poll_revoked(cx)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.standing.watchers.borrow_mut();
        watchers.wakers[self.slot] = None;
        watchers.free.push(self.slot);
        let waker = if watchers.none_left() { watchers.waits_for_end.take() } else { None };
        drop(watchers);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Everything of one kind that is open now, so that it can be judged again.
#[derive(Debug)]
pub struct Registry<T>(Rc<Entries<T>>);

#[derive(Debug)]
struct Entries<T> {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<T>>>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(Rc::new(Entries { next: Cell::default(), open: RefCell::default() }))
    }
}

impl<T> Registry<T> {
    /// It is open for as long as the entry lives.
    pub fn enter(&self, item: Rc<T>) -> Entry<T> {
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        self.0.open.borrow_mut().insert(number, item);
        Entry { entries: self.0.clone(), number }
    }

    pub fn open(&self) -> Vec<Rc<T>> {
        self.0.open.borrow().values().cloned().collect()
    }
}

#[derive(Debug)]
pub struct Entry<T> {
    entries: Rc<Entries<T>>,
    number: u64,
}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        let removed = self.entries.open.borrow_mut().remove(&self.number);
        // After the borrow: what is removed may hold entries of its own.
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_revocation_reaches_every_watcher_and_waits_for_the_last() {
        let standing = Standing::new();
        let (first, second) = (standing.watch(), standing.watch());
        assert!(first.revoked().now_or_never().is_none());
        standing.revoke();
        assert!(first.revoked().now_or_never().is_some());
        drop(first);
        assert!(standing.unwatched().now_or_never().is_none());
        assert!(second.revoked().now_or_never().is_some());
        drop(second);
        assert!(standing.unwatched().now_or_never().is_some());
    }

    #[tokio::test]
    async fn slots_are_used_again() {
        let standing = Standing::new();
        for _ in 0..100 {
            assert!(standing.watch().revoked().now_or_never().is_none());
        }
        assert_eq!(standing.watchers.borrow().wakers.len(), 1);
    }

    #[test]
    fn a_registry_knows_what_is_open() {
        let registry = Registry::default();
        let first = registry.enter(Rc::new(1));
        let second = registry.enter(Rc::new(2));
        drop(first);
        assert_eq!(registry.open(), [Rc::new(2)]);
        drop(second);
        assert!(registry.open().is_empty());
    }
}
