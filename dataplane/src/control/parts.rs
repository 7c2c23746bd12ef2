//! The parts that this proxy holds: as bytes, by which they are compared, and as what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::DestinationId;
use serde::de::DeserializeOwned;
use snapshot::parts::{Destination, Identity, Inbound, Listeners, PartName, Trust};
use sync::{Batch, Digest, Refused};

/// Of each part the last version that could be read. One that cannot is refused, and disturbs no other.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    bodies: BTreeMap<PartName, Bytes>,
    pub identity: Option<Identity>,
    pub trust: Option<Arc<Trust>>,
    pub listeners: Option<Listeners>,
    pub inbounds: BTreeMap<u16, Arc<Inbound>>,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
    /// What was refused and has not been replaced since, with the reason. It is told with every
    /// acknowledgement: silence would be taken for consent.
    refused: BTreeMap<String, String>,
}

impl Parts {
    /// Takes in a change.
    pub fn apply(&mut self, batch: &Batch) {
        if batch.whole {
            let stay: BTreeSet<&str> = batch.entries.iter().map(|entry| entry.key.as_str()).collect();
            let leave = self.bodies.keys().filter(|name| !stay.contains(name.to_string().as_str()));
            for name in leave.cloned().collect::<Vec<_>>() {
                self.remove(&name);
            }
            self.refused.retain(|key, _| stay.contains(key.as_str()));
        }
        for key in &batch.removed {
            self.refused.remove(key);
            if let Ok(name) = key.parse() {
                self.remove(&name);
            }
        }
        for entry in &batch.entries {
            match self.put(&entry.key, entry.body.clone()) {
                Ok(()) => drop(self.refused.remove(&entry.key)),
                Err(reason) => drop(self.refused.insert(entry.key.clone(), reason)),
            }
        }
    }

    /// Reads a part; the same bytes again change nothing.
    pub fn put(&mut self, key: &str, body: Bytes) -> Result<(), String> {
        let name: PartName = key.parse().map_err(|error| format!("{error}"))?;
        if self.bodies.get(&name) == Some(&body) {
            return Ok(());
        }
        match &name {
            PartName::Identity => self.identity = Some(read(&body)?),
            PartName::Trust => self.trust = Some(Arc::new(read(&body)?)),
            PartName::Listeners => self.listeners = Some(read(&body)?),
            PartName::Inbound(port) => drop(self.inbounds.insert(*port, Arc::new(read(&body)?))),
            PartName::Destination(id) => {
                self.destinations.insert(id.clone(), Arc::new(read(&body)?));
            }
        }
        self.bodies.insert(name, body);
        Ok(())
    }

    fn remove(&mut self, name: &PartName) {
        self.bodies.remove(name);
        match name {
            PartName::Identity => self.identity = None,
            PartName::Trust => self.trust = None,
            PartName::Listeners => self.listeners = None,
            PartName::Inbound(port) => drop(self.inbounds.remove(port)),
            PartName::Destination(id) => drop(self.destinations.remove(id)),
        }
    }

    /// The topic is opened anew: what is still refused is not held, so it comes again with the first batch. What does not
    /// is gone, or is again what it was before.
    pub fn opens(&mut self) {
        self.refused.clear();
    }

    /// Drops what nobody wants any more.
    pub fn retain(&mut self, wanted: &BTreeSet<String>) {
        let leave = self.bodies.keys().filter(|name| !wanted.contains(&name.to_string()));
        for name in leave.cloned().collect::<Vec<_>>() {
            self.remove(&name);
        }
        self.refused.retain(|key, _| wanted.contains(key));
    }

    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    pub fn bodies(&self) -> impl Iterator<Item = (&PartName, &Bytes)> {
        self.bodies.iter()
    }

    /// What the zone is told that this proxy holds.
    pub fn held(&self) -> BTreeMap<String, Digest> {
        self.bodies.iter().map(|(name, body)| (name.to_string(), Digest::of(body))).collect()
    }

    pub fn refused(&self) -> impl Iterator<Item = Refused> {
        self.refused.iter().map(|(key, reason)| Refused::new(key.clone(), None, reason.clone()))
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("this proxy cannot read it: {error}"))
}

#[cfg(test)]
mod tests {
    use sync::Entry;

    use super::*;

    const OPEN: &str =
        r#"{"listen":"127.0.0.1:8080","application":"127.0.0.1:80","protocol":"http","access":{"rules":[]}}"#;

    fn batch(entries: &[(&str, &'static str)], removed: &[&str]) -> Batch {
        Batch {
            entries: entries.iter().map(|(name, body)| Entry::part(name, *body)).collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
            ..Batch::default()
        }
    }

    fn refused(parts: &Parts) -> Vec<String> {
        parts.refused().map(|refused| refused.key).collect()
    }

    #[test]
    fn a_part_that_cannot_be_read_is_refused_until_it_is_replaced_and_the_rest_goes_in() {
        let mut parts = Parts::default();
        parts.apply(&batch(&[("inbound/8080", OPEN), ("trust", "{}")], &[]));
        let held = parts.held();

        parts.apply(&batch(&[("inbound/8080", "{}"), ("listeners", r#"{"outbound":[]}"#)], &[]));
        assert_eq!(refused(&parts), ["inbound/8080"]);
        assert!(parts.listeners.is_some());
        assert_eq!(parts.held().get("inbound/8080"), held.get("inbound/8080"), "the last good one stays");
        assert!(parts.inbounds.contains_key(&8080));

        parts.apply(&batch(&[("trust", "{}")], &[]));
        assert_eq!(refused(&parts), ["inbound/8080"], "told again with every batch");
        parts.apply(&batch(&[("inbound/8080", OPEN)], &[]));
        assert_eq!(refused(&parts), [""; 0]);

        parts.apply(&batch(&[("telemetry", "{}")], &["inbound/8080"]));
        assert_eq!(refused(&parts), ["telemetry"], "a part from the future");
        assert!(parts.inbounds.is_empty());
    }

    #[test]
    fn what_was_refused_and_does_not_come_again_in_the_next_session_is_refused_no_more() {
        let mut parts = Parts::default();
        parts.apply(&batch(&[("inbound/8080", "{}"), ("inbound/8081", "{}")], &[]));
        assert_eq!(refused(&parts).len(), 2);
        parts.opens();
        parts.apply(&batch(&[("inbound/8081", "{}")], &[]));
        assert_eq!(refused(&parts), ["inbound/8081"], "the other one is no part any more");
    }

    #[test]
    fn a_whole_set_replaces_all_and_the_same_bytes_change_nothing() {
        let mut parts = Parts::default();
        parts.apply(&batch(&[("inbound/8080", OPEN), ("trust", "{}")], &[]));
        let before = parts.trust.clone().unwrap();
        parts.apply(&Batch { whole: true, ..batch(&[("trust", "{}")], &[]) });
        assert!(Arc::ptr_eq(&before, parts.trust.as_ref().unwrap()));
        assert!(parts.inbounds.is_empty());
        assert_eq!(parts.held().len(), 1);
    }

    #[test]
    fn what_nobody_wants_is_dropped() {
        let mut parts = Parts::default();
        parts.apply(&batch(&[("inbound/8080", OPEN), ("trust", "{}")], &[]));
        parts.retain(&BTreeSet::from(["trust".to_owned()]));
        assert_eq!(parts.held().into_keys().collect::<Vec<_>>(), ["trust"]);
    }
}
