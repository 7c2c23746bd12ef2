//! Which state of the documents something speaks of: versions, and worlds made of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{InvalidZoneName, ZoneName};

/// Where a document is written: on the global, or in one zone. Everyone else holds a copy.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Origin {
    Global,
    Zone(ZoneName),
}

impl Origin {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Global => "global",
            Self::Zone(zone) => zone.as_str(),
        }
    }

    /// The zone that writes these documents, or none where the global does.
    pub fn zone(&self) -> Option<&ZoneName> {
        match self {
            Self::Global => None,
            Self::Zone(zone) => Some(zone),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Origin {
    type Err = InvalidZoneName;

    fn from_str(text: &str) -> Result<Self, InvalidZoneName> {
        if text == "global" { Ok(Self::Global) } else { Ok(Self::Zone(text.parse()?)) }
    }
}

impl TryFrom<String> for Origin {
    type Error = InvalidZoneName;

    fn try_from(text: String) -> Result<Self, InvalidZoneName> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.as_str().to_owned()
    }
}

/// A place in the history of one origin. A later epoch is later whatever the revision.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct Point {
    pub epoch: u64,
    pub revision: u64,
}

/// The version of a document: written once by its origin, never changed when relayed.
///
/// The text form, `global-1-812` or `east-1-97`, is read from the right, since a zone's name may have
/// dashes and digits of its own.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    pub origin: Origin,
    pub point: Point,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a revision: it looks like global-1-812 or east-1-97 (origin, epoch, number)")]
pub struct InvalidVersion(String);

impl Version {
    pub fn new(origin: Origin, epoch: u64, revision: u64) -> Self {
        Self { origin, point: Point { epoch, revision } }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.origin, self.point.epoch, self.point.revision)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let parse = || {
            let mut parts = text.rsplitn(3, '-');
            let revision = number(parts.next()?)?;
            let epoch = number(parts.next()?)?;
            let origin = parts.next()?.parse().ok()?;
            Some(Self::new(origin, epoch, revision))
        };
        parse().ok_or_else(|| InvalidVersion(text.into()))
    }
}

/// Digits only, and one spelling for each number: `+1` and `01` would make two names for one version.
fn number(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

impl TryFrom<String> for Version {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Self, InvalidVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

/// What a zone or a proxy knows: for each origin, the point up to which it has everything that
/// concerns it. An origin that is not there was never heard of.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct World(BTreeMap<Origin, Point>);

impl World {
    pub fn point(&self, origin: &Origin) -> Option<Point> {
        self.0.get(origin).copied()
    }

    /// Whether everything up to `version` is in this world. A point of an earlier epoch never covers
    /// a later one, and the other way round: a new epoch says nothing about numbers of the old.
    pub fn covers(&self, version: &Version) -> bool {
        self.point(&version.origin)
            .is_some_and(|held| held.epoch == version.point.epoch && held.revision >= version.point.revision)
    }

    /// Whether every component of `other` is reached or passed here.
    pub fn covers_all(&self, other: &World) -> bool {
        other.0.iter().all(|(origin, point)| self.point(origin).is_some_and(|held| held >= *point))
    }

    /// Moves one component forward; a point that is not later changes nothing.
    pub fn advance(&mut self, origin: Origin, point: Point) {
        let held = self.0.entry(origin).or_insert(point);
        *held = (*held).max(point);
    }

    /// The least world that covers both.
    pub fn merge(&mut self, other: &World) {
        for (origin, point) in &other.0 {
            self.advance(origin.clone(), *point);
        }
    }

    /// Sets a component, backwards too: only for an authority that was explicitly accepted.
    pub fn reset(&mut self, origin: Origin, point: Point) {
        self.0.insert(origin, point);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Origin, Point)> {
        self.0.iter().map(|(origin, point)| (origin, *point))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Origin, Point)> for World {
    fn from_iter<I: IntoIterator<Item = (Origin, Point)>>(points: I) -> Self {
        Self(points.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::Global),
            "[a-z]([a-z0-9-]{0,20}[a-z0-9])?"
                .prop_filter("reserved", |name| name != "global")
                .prop_map(|name| Origin::Zone(name.parse().unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn versions_round_trip_as_text(origin in origin(), epoch: u64, revision: u64) {
            let version = Version::new(origin, epoch, revision);
            prop_assert_eq!(version.to_string().parse::<Version>(), Ok(version));
        }
    }

    #[test]
    fn revisions_are_read_from_the_right() {
        let version: Version = "rack-7-1-97".parse().unwrap();
        assert_eq!((version.origin.as_str(), version.point), ("rack-7", Point { epoch: 1, revision: 97 }));
        for bad in ["", "global", "global-1", "global-1-x", "-1-2", "global-+1-2", "global-01-2", "East-1-2"]
        {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_world_covers_what_it_reached_in_the_same_epoch() {
        let mut world = World::default();
        world.advance(Origin::Global, Point { epoch: 2, revision: 10 });
        let cases =
            [("global-2-10", true), ("global-2-9", true), ("global-2-11", false), ("global-1-9", false)];
        for (version, covered) in cases {
            assert_eq!(world.covers(&version.parse().unwrap()), covered, "{version}");
        }
        assert!(!world.covers(&"east-1-1".parse().unwrap()));
    }
}
