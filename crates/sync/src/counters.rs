//! What all sessions with one kind of peer have come to. Read at any moment, by whoever shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counters {
    sessions: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    refused_by_peers: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    /// Sessions whose peer has introduced itself, at this moment.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Batches that peers acknowledged.
    pub fn batches_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Batches of peers that are stored and in force.
    pub fn batches_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Documents and parts of those that were sent, which their peer did not take.
    pub fn refused_by_peers(&self) -> u64 {
        self.refused_by_peers.load(Ordering::Relaxed)
    }

    /// Documents of those that were received, which were not taken.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self, refused: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.refused_by_peers.fetch_add(refused as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, refused: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.refused.fetch_add(refused as u64, Ordering::Relaxed);
    }
}

/// A session that counts for as long as this lives.
pub(crate) struct OpenSession(Arc<Counters>);

impl OpenSession {
    pub(crate) fn count(counters: &Arc<Counters>) -> Self {
        counters.sessions.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone())
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
