//! What parts and endpoints mean, decoded once for all simulated proxies: equal bytes are decoded equally.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::SpiffeId;
use serde::de::DeserializeOwned;
use snapshot::parts::{Destination, Endpoints, Identity, Inbound, Listeners, PartName, Trust};
use sync::Digest;

/// As far as a simulated proxy acts on it.
#[derive(Clone, Debug)]
pub enum Meaning {
    Identity(SpiffeId),
    Listeners(Arc<Listeners>),
    /// Read, and nothing follows from it.
    Other,
}

type Read<T> = Result<T, String>;

#[derive(Default)]
pub struct Decoded {
    parts: Mutex<HashMap<Digest, Read<Meaning>>>,
    ready: Mutex<HashMap<Digest, Read<usize>>>,
}

/// More than are ever current: then everything is forgotten, and decoded again.
const MOST: usize = 50_000;

impl Decoded {
    /// An error says why the part cannot be read.
    pub fn part(&self, key: &str, digest: Digest, body: &[u8]) -> Read<Meaning> {
        remembered(&self.parts, digest, || {
            Ok(match key.parse::<PartName>().map_err(|error| error.to_string())? {
                PartName::Identity => Meaning::Identity(read::<Identity>(body)?.id),
                PartName::Listeners => Meaning::Listeners(Arc::new(read(body)?)),
                PartName::Trust => read::<Trust>(body).map(|_| Meaning::Other)?,
                PartName::Inbound(_) => read::<Inbound>(body).map(|_| Meaning::Other)?,
                PartName::Destination(_) => read::<Destination>(body).map(|_| Meaning::Other)?,
            })
        })
    }

    /// How many endpoints of a signal are ready.
    pub fn ready(&self, body: &[u8]) -> Read<usize> {
        if body.is_empty() {
            return Ok(0);
        }
        remembered(&self.ready, Digest::of(body), || {
            let Endpoints(endpoints) = read(body)?;
            Ok(endpoints.iter().filter(|endpoint| endpoint.ready).count())
        })
    }
}

fn remembered<T: Clone>(
    known: &Mutex<HashMap<Digest, Read<T>>>,
    digest: Digest,
    decode: impl FnOnce() -> Read<T>,
) -> Read<T> {
    // Plain assignments.
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() > MOST {
        known.clear();
    }
    known.entry(digest).or_insert_with(decode).clone()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Read<T> {
    serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))
}
