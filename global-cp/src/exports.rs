//! Decides how exports go from the zone that owns a destination to the zones that use it.
//!
//! The owner is asked for what any other zone wants, once. Its latest word is kept, so that a zone which
//! comes later, or while the owner is away, hears it too: no word is not "gone". A zone is heard about its
//! own destinations alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use control::questions::{exported, exports_signal};
use model::{DestinationId, Origin, ZoneName};
use sync::frame::Signal;
use tokio::time::Instant;

/// Who wants what, and what was heard last.
#[derive(Default)]
pub struct Exports {
    wanted: BTreeMap<DestinationId, BTreeSet<ZoneName>>,
    latest: BTreeMap<DestinationId, (Signal, Instant)>,
    /// Zones whose wishes are those of an earlier session; their next word replaces them.
    returned: BTreeSet<ZoneName>,
}

/// What is to be done about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Ask the owner for this signal.
    Subscribe {
        owner: ZoneName,
        signal: String,
    },
    Unsubscribe {
        owner: ZoneName,
        signal: String,
    },
    /// Tell a zone.
    Publish {
        zone: ZoneName,
        name: String,
        signal: Signal,
    },
    /// Nothing more is to be told to a zone under this name.
    Retract {
        zone: ZoneName,
        signal: String,
    },
}

/// A signal that is not what its sender may say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotTheirs(pub String);

impl Exports {
    /// A zone has a new session, in which nothing was asked of it yet.
    pub fn joined(&mut self, zone: &ZoneName) -> Vec<Effect> {
        self.returned.insert(zone.clone());
        // What was kept only because it could not be asked again.
        let wanted = &self.wanted;
        self.latest.retain(|id, _| id.zone.as_ref() != Some(zone) || wanted.contains_key(id));
        let wanted = self.wanted.keys().filter(|id| id.zone.as_ref() == Some(zone));
        wanted.map(|id| Effect::Subscribe { owner: zone.clone(), signal: exports_signal(id) }).collect()
    }

    /// A zone wants these signals, and no longer those. Every name that it adds gets a first word.
    /// `is_here` says whether a zone has a session.
    pub fn subscribed(
        &mut self,
        zone: &ZoneName,
        added: &[String],
        removed: &[String],
        now: Instant,
        is_here: impl Fn(&ZoneName) -> bool,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for name in removed {
            effects.push(Effect::Retract { zone: zone.clone(), signal: name.clone() });
        }
        let mut left: Vec<DestinationId> = removed.iter().filter_map(|name| exported(name)).collect();
        if self.returned.remove(zone) {
            let before = self.wanted.iter().filter(|(_, zones)| zones.contains(zone)).map(|(id, _)| id);
            left.extend(before.filter(|id| !added.contains(&exports_signal(id))).cloned());
        }
        for id in left {
            effects.extend(self.unwant(zone, &id, &is_here));
        }
        for name in added {
            effects.extend(self.want(zone, name, now));
        }
        effects
    }

    fn want(&mut self, zone: &ZoneName, name: &str, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let id = exported(name);
        let owner = id.as_ref().and_then(|id| id.zone.clone()).filter(|owner| owner != zone);
        if let (Some(id), Some(owner)) = (&id, owner) {
            let zones = self.wanted.entry(id.clone()).or_default();
            if zones.is_empty() {
                effects.push(Effect::Subscribe { owner, signal: name.to_owned() });
            }
            zones.insert(zone.clone());
        }
        let known = id.and_then(|id| self.latest.get(&id)).map(|(signal, at)| aged(signal, *at, now));
        let signal = known.unwrap_or_else(no_word);
        effects.push(Effect::Publish { zone: zone.clone(), name: name.to_owned(), signal });
        effects
    }

    fn unwant(
        &mut self,
        zone: &ZoneName,
        id: &DestinationId,
        is_here: impl Fn(&ZoneName) -> bool,
    ) -> Option<Effect> {
        let zones = self.wanted.get_mut(id)?;
        zones.remove(zone);
        if !zones.is_empty() {
            return None;
        }
        self.wanted.remove(id);
        let owner = id.zone.clone()?;
        // One that is away could not be asked again.
        if is_here(&owner) {
            self.latest.remove(id);
        }
        Some(Effect::Unsubscribe { owner, signal: exports_signal(id) })
    }

    /// A zone says something about a destination.
    pub fn heard(
        &mut self,
        zone: &ZoneName,
        name: &str,
        signal: Signal,
        now: Instant,
    ) -> Result<Vec<Effect>, NotTheirs> {
        let id = exported(name).filter(|id| id.zone.as_ref() == Some(zone));
        let id = id.ok_or_else(|| NotTheirs(name.to_owned()))?;
        let Some(zones) = self.wanted.get(&id) else { return Ok(Vec::new()) };
        if signal.value.is_empty() && self.latest.contains_key(&id) {
            return Ok(Vec::new());
        }
        let signal = Signal { origin: Origin::Zone(zone.clone()), ..signal };
        let publish = |zone: &ZoneName| Effect::Publish {
            zone: zone.clone(),
            name: name.to_owned(),
            signal: signal.clone(),
        };
        let effects = zones.iter().map(publish).collect();
        if !signal.value.is_empty() {
            self.latest.insert(id, (signal, now));
        }
        Ok(effects)
    }
}

fn aged(signal: &Signal, at: Instant, now: Instant) -> Signal {
    Signal { age: signal.age + now.duration_since(at), ..signal.clone() }
}

fn no_word() -> Signal {
    Signal { origin: Origin::Global, age: Duration::ZERO, value: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = "exports/ms_default_west__catalog_80";

    fn zone(name: &str) -> ZoneName {
        name.parse().unwrap()
    }

    fn said(value: &'static str) -> Signal {
        let value = Bytes::from_static(value.as_bytes());
        Signal { origin: Origin::Zone(zone("west")), age: Duration::from_secs(1), value }
    }

    fn wants(exports: &mut Exports, who: &str, added: &[&str], now: Instant) -> Vec<Effect> {
        let added: Vec<String> = added.iter().map(|name| (*name).to_owned()).collect();
        exports.subscribed(&zone(who), &added, &[], now, |_| true)
    }

    fn publish(who: &str, signal: Signal) -> Effect {
        Effect::Publish { zone: zone(who), name: CATALOG.to_owned(), signal }
    }

    fn subscribe() -> Effect {
        Effect::Subscribe { owner: zone("west"), signal: CATALOG.to_owned() }
    }

    #[test]
    fn the_owner_is_asked_once_and_everyone_who_wants_it_is_told() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        assert_eq!(wants(&mut exports, "east", &[CATALOG], now), [subscribe(), publish("east", no_word())]);
        assert_eq!(wants(&mut exports, "north", &[CATALOG], now), [publish("north", no_word())]);
        let told = exports.heard(&zone("west"), CATALOG, said("[1]"), now).unwrap();
        assert_eq!(told, [publish("east", said("[1]")), publish("north", said("[1]"))]);
        // Who comes later is told how old the word is.
        let later = now + Duration::from_secs(4);
        let aged = Signal { age: Duration::from_secs(5), ..said("[1]") };
        assert_eq!(wants(&mut exports, "south", &[CATALOG], later), [publish("south", aged)]);
    }

    #[test]
    fn no_word_takes_nothing_away() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        wants(&mut exports, "east", &[CATALOG], now);
        assert_eq!(
            exports.heard(&zone("west"), CATALOG, said(""), now).unwrap(),
            [publish("east", said(""))]
        );
        exports.heard(&zone("west"), CATALOG, said("[1]"), now).unwrap();
        assert_eq!(exports.joined(&zone("west")), [subscribe()], "the owner came back");
        assert_eq!(exports.heard(&zone("west"), CATALOG, said(""), now).unwrap(), []);
        assert_eq!(wants(&mut exports, "north", &[CATALOG], now), [publish("north", said("[1]"))]);
    }

    #[test]
    fn s36_nobody_speaks_for_another_zones_destinations() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        wants(&mut exports, "east", &[CATALOG], now);
        for name in [CATALOG, "exports/nonsense", "exports/mmzs_default___catalog_80"] {
            let heard = exports.heard(&zone("north"), name, said("[1]"), now);
            assert_eq!(heard, Err(NotTheirs(name.to_owned())));
        }
        assert_eq!(wants(&mut exports, "south", &[CATALOG], now), [publish("south", no_word())]);
    }

    #[test]
    fn a_zone_is_not_told_its_own_and_every_name_gets_a_first_word() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        for name in [CATALOG, "exports/nonsense"] {
            let first = Effect::Publish { zone: zone("west"), name: name.into(), signal: no_word() };
            assert_eq!(wants(&mut exports, "west", &[name], now), [first]);
        }
    }

    #[test]
    fn what_nobody_wants_is_given_up_but_not_while_its_owner_is_away() {
        for (is_here, known) in [(true, no_word()), (false, said("[1]"))] {
            let (mut exports, now) = (Exports::default(), Instant::now());
            wants(&mut exports, "east", &[CATALOG], now);
            exports.heard(&zone("west"), CATALOG, said("[1]"), now).unwrap();
            let left = exports.subscribed(&zone("east"), &[], &[CATALOG.to_owned()], now, |_| is_here);
            let signal = CATALOG.to_owned();
            let want = [
                Effect::Retract { zone: zone("east"), signal: signal.clone() },
                Effect::Unsubscribe { owner: zone("west"), signal },
            ];
            assert_eq!(left, want);
            let again = wants(&mut exports, "east", &[CATALOG], now);
            assert_eq!(again, [subscribe(), publish("east", known)], "{is_here}");

            exports.subscribed(&zone("east"), &[], &[CATALOG.to_owned()], now, |_| is_here);
            exports.joined(&zone("west"));
            assert!(exports.latest.is_empty(), "{is_here}");
        }
    }

    #[test]
    fn a_new_session_says_anew_what_it_wants() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        let other = "exports/ms_default_west__cart_80";
        wants(&mut exports, "east", &[CATALOG], now);
        exports.joined(&zone("east"));
        let effects = wants(&mut exports, "east", &[other], now);
        let given_up = Effect::Unsubscribe { owner: zone("west"), signal: CATALOG.to_owned() };
        assert!(effects.contains(&given_up), "{effects:?}");
    }
}
