//! A disk that refuses what a peer said delays that, and nothing else of the session.

use sync::link::{HostError, NotYet};

/// What the disk alone keeps from happening happens later.
pub fn not_yet(error: HostError) -> HostError {
    match error.downcast_ref() {
        Some(store::Error::Full { .. } | store::Error::Unavailable { .. }) => NotYet(error).into(),
        _ => error,
    }
}
