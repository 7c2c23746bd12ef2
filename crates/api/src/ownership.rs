//! Decides who may write a document here, which of several a name stands for, and whether it is still what
//! the caller thinks.

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use model::kinds::{Author, Kind};
use model::{DocumentKey, Name, Origin, Record, Version};
use store::Expect;

use crate::path::Place;
use crate::shapes::{Choice, Problem};

/// Who writes what is the global's to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authority {
    /// This control plane: it is the global, or a zone that stands alone.
    Here,
    /// The global that this zone follows, with its address for people where it is known.
    Global { address: Option<String> },
}

impl Authority {
    /// For people: where the global's documents are written.
    fn place(&self) -> String {
        match self {
            Self::Here => "this control plane".into(),
            Self::Global { address: None } => "the global control plane".into(),
            Self::Global { address: Some(address) } => format!("the global control plane at {address}"),
        }
    }
}

/// Whether people write documents of this kind here at all.
pub(crate) fn may_write(kind: &Kind, here: &Origin, authority: &Authority) -> Result<(), Problem> {
    let on_zone = here.zone().is_some();
    let elsewhere = |place: &str| {
        Err(Problem::written_elsewhere(format!("{kind} documents are written on {place}: send it there")))
    };
    match kind.author {
        Author::Both => Ok(()),
        Author::Global if *authority == Authority::Here => Ok(()),
        Author::Global => elsewhere(&authority.place()),
        Author::Zone if on_zone => Ok(()),
        Author::Zone => elsewhere("the control plane of their zone"),
        Author::Generated => Err(Problem::written_elsewhere(format!(
            "{kind} documents are made by the zones themselves; nobody writes them"
        ))),
    }
}

/// What `?zone=` and `?namespace=` choose; `global` is the zone of the global's own documents.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Chosen {
    pub zone: Option<Origin>,
    pub namespace: Option<Name>,
}

impl Chosen {
    pub(crate) fn covers(&self, key: &DocumentKey) -> bool {
        self.zone.as_ref().is_none_or(|zone| *zone == key.origin)
            && (self.namespace.is_none() || self.namespace == key.namespace)
    }
}

/// The document that a name stands for: the only one that was chosen, else the only one of this control
/// plane's own.
pub(crate) fn find(
    place: &Place,
    candidates: Vec<Record>,
    chosen: &Chosen,
    here: &Origin,
) -> Result<Record, Problem> {
    let (mut own, mut others): (Vec<Record>, Vec<Record>) = candidates
        .into_iter()
        .filter(|record| chosen.covers(&record.key))
        .partition(|record| record.key.origin == *here);
    match (own.len(), others.len()) {
        (0, 0) => Err(Problem::not_found(format!("there is no {}", place.describe()))),
        (1, _) => Ok(own.remove(0)),
        (0, 1) => Ok(others.remove(0)),
        _ => {
            own.append(&mut others);
            let choices = own.iter().map(|record| choice(&record.key)).collect();
            Err(Problem::ambiguous(
                format!(
                    "{} exists {} times: choose one with ?zone= and ?namespace=",
                    place.describe(),
                    own.len()
                ),
                choices,
            ))
        }
    }
}

fn choice(key: &DocumentKey) -> Choice {
    Choice { zone: key.origin.clone(), namespace: key.namespace.as_ref().map(Name::to_string) }
}

/// A refusal to change a copy, which says whose it is.
pub(crate) fn not_ours(place: &Place, owner: &Origin, authority: &Authority) -> Problem {
    let (whose, where_to) = match owner {
        Origin::Global => ("the global".to_owned(), authority.place()),
        Origin::Zone(zone) => (format!("zone '{zone}'"), format!("the control plane of zone '{zone}'")),
    };
    Problem::owned_elsewhere(
        owner.clone(),
        format!("{} is owned by {whose} and this is a copy: write it on {where_to}", place.describe()),
    )
}

/// What a caller says about the version that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Precondition {
    None,
    /// `If-Match`: one of these stands there; with `*` anything.
    Matches(Tags),
    /// `If-None-Match`: none of these stands there; with `*` nothing at all.
    Differs(Tags),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Tags {
    Any,
    These(Vec<Version>),
}

impl Tags {
    fn cover(&self, held: Option<&Version>) -> bool {
        match (self, held) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(versions), Some(held)) => versions.contains(held),
        }
    }
}

impl Precondition {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match (headers.contains_key(IF_MATCH), headers.contains_key(IF_NONE_MATCH)) {
            (false, false) => Ok(Self::None),
            (true, false) => tags(headers, IF_MATCH).map(Self::Matches),
            (false, true) => tags(headers, IF_NONE_MATCH).map(Self::Differs),
            (true, true) => {
                Err(Problem::invalid_request("If-Match", "does not go together with If-None-Match"))
            }
        }
    }

    /// Whether it holds for what is there.
    pub(crate) fn holds(&self, held: Option<&Version>) -> bool {
        match self {
            Self::None => true,
            Self::Matches(tags) => tags.cover(held),
            Self::Differs(tags) => !tags.cover(held),
        }
    }

    /// What the store must find, so that nobody comes in between; 412 if it is not so already.
    pub(crate) fn expect(&self, place: &Place, held: Option<&Version>) -> Result<Expect, Problem> {
        if self.holds(held) {
            return Ok(held.map_or(Expect::Absent, |held| Expect::Version(held.clone())));
        }
        let place = place.describe();
        Err(Problem::precondition_failed(match held {
            Some(held) => format!("{place} is at {held} now: read it again, then decide again"),
            None => format!("there is no {place} now: read it again, then decide again"),
        }))
    }
}

/// Entity tags are revisions in quotes. Weak ones never match a write, and neither does what is no revision.
fn tags(headers: &HeaderMap, name: HeaderName) -> Result<Tags, Problem> {
    let mut versions = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().map_err(|_| Problem::invalid_request(name.as_str(), "is not text"))?;
        for tag in text.split(',').map(str::trim) {
            if tag == "*" {
                return Ok(Tags::Any);
            }
            // Some clients leave the quotes out; a revision cannot be mistaken for anything else.
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
            versions.extend(tag.parse::<Version>());
        }
    }
    Ok(Tags::These(versions))
}

#[cfg(test)]
mod tests {
    use model::kinds;

    use super::*;

    fn place() -> Place {
        Place {
            kind: kinds::by_name("MeshService").unwrap(),
            mesh: Some("default".parse().unwrap()),
            name: "web".parse().unwrap(),
        }
    }

    fn held(key: &str) -> Record {
        let key: DocumentKey = key.parse().unwrap();
        let version = Version::new(key.origin.clone(), 1, 7);
        Record { key, version, secret: false, requires: vec![], bundle: None, bytes: "{}".into() }
    }

    #[test]
    fn each_kind_is_written_where_its_author_is() {
        let (global, east) = (Origin::Global, Origin::Zone("east".parse().unwrap()));
        let follows = Authority::Global { address: Some("https://global:5681".into()) };
        let cases = [
            ("Mesh", &global, &Authority::Here, true),
            ("Mesh", &east, &follows, false),
            ("Mesh", &east, &Authority::Here, true),
            ("Dataplane", &global, &Authority::Here, false),
            ("Dataplane", &east, &follows, true),
            ("MeshService", &global, &Authority::Here, false),
            ("MeshZoneAddress", &global, &Authority::Here, false),
            ("MeshTrafficPermission", &global, &Authority::Here, true),
            ("MeshTrafficPermission", &east, &follows, true),
            ("Workload", &east, &Authority::Here, false),
        ];
        for (kind, here, authority, may) in cases {
            let decided = may_write(kinds::by_name(kind).unwrap(), here, authority);
            assert_eq!(decided.is_ok(), may, "{kind} at {here}: {decided:?}");
        }
        let refused = may_write(kinds::by_name("Mesh").unwrap(), &east, &follows).unwrap_err();
        assert!(refused.detail.contains("https://global:5681"), "{}", refused.detail);
    }

    #[test]
    fn a_name_stands_for_ones_own_document_or_the_only_one() {
        let (east, west, shop) = (
            "MeshService/default/east//web",
            "MeshService/default/west//web",
            "MeshService/default/west/shop/web",
        );
        let zone = |zone: &str| Chosen { zone: Some(zone.parse().unwrap()), namespace: None };
        let cases = [
            ("nothing", vec![], Chosen::default(), "global", Err(404)),
            ("the only one", vec![east], Chosen::default(), "global", Ok(east)),
            ("two", vec![east, west], Chosen::default(), "global", Err(409)),
            ("two, one chosen", vec![east, west], zone("west"), "global", Ok(west)),
            ("two, another chosen", vec![east, west], zone("north"), "global", Err(404)),
            ("one's own first", vec![east, west], Chosen::default(), "east", Ok(east)),
            ("two in a zone", vec![west, shop], zone("west"), "global", Err(409)),
            (
                "by namespace",
                vec![west, shop],
                Chosen { namespace: Some("shop".parse().unwrap()), ..zone("west") },
                "global",
                Ok(shop),
            ),
        ];
        for (why, candidates, chosen, here, want) in cases {
            let candidates = candidates.into_iter().map(held).collect();
            let found = find(&place(), candidates, &chosen, &here.parse().unwrap());
            let found = found.map(|record| record.key.to_string()).map_err(|problem| problem.status);
            assert_eq!(found, want.map(str::to_owned), "{why}");
        }
    }

    #[test]
    fn preconditions_hold_for_the_version_they_name() {
        let now: Version = "global-1-7".parse().unwrap();
        let cases = [
            (&[][..], Some(&now), true),
            (&[][..], None, true),
            (&[("if-match", "\"global-1-7\"")][..], Some(&now), true),
            (&[("if-match", "\"global-1-6\", \"global-1-7\"")][..], Some(&now), true),
            (&[("if-match", "global-1-7")][..], Some(&now), true),
            (&[("if-match", "\"global-1-6\"")][..], Some(&now), false),
            (&[("if-match", "W/\"global-1-7\"")][..], Some(&now), false),
            (&[("if-match", "\"global-1-7\"")][..], None, false),
            (&[("if-match", "*")][..], Some(&now), true),
            (&[("if-match", "*")][..], None, false),
            (&[("if-none-match", "*")][..], Some(&now), false),
            (&[("if-none-match", "*")][..], None, true),
        ];
        for (headers, held, holds) in cases {
            let map = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>();
            let expect = Precondition::of(&map).unwrap().expect(&place(), held);
            assert_eq!(expect.is_ok(), holds, "{headers:?} {held:?}");
            let want = held.map_or(Expect::Absent, |held| Expect::Version(held.clone()));
            assert!(expect.is_err() || expect.is_ok_and(|expect| expect == want));
        }
    }
}
