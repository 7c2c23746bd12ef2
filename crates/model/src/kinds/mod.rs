//! Every kind of resource: what it is, who writes it, where it travels, and its typed spec.
//!
//! One kind, one file: its spec, how that is read and checked, and its tests. A new kind is a file
//! and a line in the list below.

mod common;
pub mod matching;
pub mod role;
pub mod target;

use std::fmt;

use crate::document::{Fields, Item};
use crate::key::KindName;
use crate::labels::Labels;
use crate::name::{InvalidName, InvalidResourceName, InvalidZoneName, Name, ResourceName, ZoneName};

pub use common::{Host, InvalidHost};
pub use role::Role;
pub use target::{TargetRef, ToRef};

macro_rules! kinds {
    ($($module:ident: $type:ident),+ $(,)?) => {
        $(pub mod $module; pub use $module::$type;)+

        /// The valid content of a document.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec {
            $($type($type),)+
        }

        static KINDS: &[&Kind] = &[$(&<$type as ResourceSpec>::KIND,)+];

        impl Spec {
            pub fn kind(&self) -> &'static Kind {
                match self {
                    $(Self::$type(_) => &<$type as ResourceSpec>::KIND,)+
                }
            }

            pub(crate) fn read(kind: &Kind, fields: &mut Fields<'_>) -> Option<Self> {
                $(if *kind == <$type as ResourceSpec>::KIND {
                    return $type::read(fields).map(Self::$type);
                })+
                None
            }

            pub(crate) fn check_labels(&self, namespace: Option<&Name>, labels: &Labels, item: &Item<'_>) {
                match self {
                    $(Self::$type(spec) => spec.check_labels(namespace, labels, item),)+
                }
            }
        }

        $(
            impl From<$type> for Spec {
                fn from(spec: $type) -> Self {
                    Self::$type(spec)
                }
            }

            impl<'a> TryFrom<&'a Spec> for &'a $type {
                type Error = ();

                fn try_from(spec: &'a Spec) -> Result<Self, ()> {
                    match spec {
                        Spec::$type(spec) => Ok(spec),
                        _ => Err(()),
                    }
                }
            }
        )+
    };
}

kinds! {
    mesh: Mesh,
    zone: Zone,
    dataplane: Dataplane,
    workload: Workload,
    mesh_service: MeshService,
    mesh_zone_address: MeshZoneAddress,
    mesh_identity: MeshIdentity,
    mesh_trust: MeshTrust,
    mesh_multi_zone_service: MeshMultiZoneService,
    mesh_traffic_permission: MeshTrafficPermission,
    mesh_timeout: MeshTimeout,
}

/// All kinds that this program knows.
pub fn all() -> &'static [&'static Kind] {
    KINDS
}

/// By the name that documents carry, such as `MeshService`.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}

/// By the word that paths carry, such as `meshservices`.
pub fn by_plural(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.plural == plural)
}

/// What is to be known of a kind.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Kind {
    pub name: &'static str,
    /// As in paths.
    pub plural: &'static str,
    /// For people who type; where Kuma has a short name, the same.
    pub short: &'static str,
    pub scope: Scope,
    pub author: Author,
    pub travels: Travels,
    pub naming: Naming,
    pub root: Root,
}

/// A typed spec of a kind.
pub trait ResourceSpec: Sized {
    const KIND: Kind;

    /// Takes every field it knows, and reports what is wrong. The result counts only if nothing was
    /// reported, so optional fields that are wrong may be taken for absent.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// Reports labels that do not fit this spec; `item` is the object of the labels.
    fn check_labels(&self, _namespace: Option<&Name>, _labels: &Labels, _item: &Item<'_>) {}
}

/// Specs that control planes write themselves.
pub trait Generated: ResourceSpec {
    /// As an author would write it; reading it gives the same spec.
    fn to_json(&self) -> serde_json::Value;
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Outside of meshes.
    Global,
    /// In one mesh.
    Mesh,
}

/// Where people may write a kind. A zone that stands alone takes the global's place as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Author {
    Global,
    Zone,
    Both,
    /// Zones make it; nobody writes it.
    Generated,
}

/// Where documents of a kind go beside the control plane that they are written on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Travels {
    /// From the global to its zones.
    pub down: bool,
    /// From a zone to the global.
    pub up: bool,
    /// From a zone over the global to the other zones.
    pub across: bool,
}

impl Travels {
    pub const NOWHERE: Self = Self { down: false, up: false, across: false };
    pub const DOWN: Self = Self { down: true, ..Self::NOWHERE };
    pub const UP: Self = Self { up: true, ..Self::NOWHERE };
    pub const DOWN_AND_UP: Self = Self { down: true, up: true, across: false };
    pub const UP_AND_ACROSS: Self = Self { down: false, up: true, across: true };
    pub const EVERYWHERE: Self = Self { down: true, up: true, across: true };
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Naming {
    /// RFC 1035, at most 63 characters.
    Label,
    /// As a label, and not `global`.
    Zone,
    /// RFC 1123, at most 253 characters.
    Subdomain,
}

/// Where the fields of violations begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Root {
    /// `networking.address`
    Top,
    /// `spec.rules[0]`
    Spec,
}

impl Kind {
    pub fn is_mesh_scoped(&self) -> bool {
        self.scope == Scope::Mesh
    }

    pub fn key_name(&self) -> KindName {
        self.name.parse().expect("the names of kinds are kind names")
    }

    /// The name as this kind wants it.
    pub fn parse_name(&self, text: &str) -> Result<ResourceName, InvalidKindsName> {
        Ok(match self.naming {
            Naming::Label => text.parse::<Name>()?.into(),
            Naming::Zone => text.parse::<ZoneName>()?.as_name().clone().into(),
            Naming::Subdomain => text.parse()?,
        })
    }

    /// Whether people may write it on a zone that follows a global (`zone`), or on a global.
    pub fn may_be_written(&self, on_zone: bool) -> bool {
        match self.author {
            Author::Both => true,
            Author::Global => !on_zone,
            Author::Zone => on_zone,
            Author::Generated => false,
        }
    }
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidKindsName {
    #[error(transparent)]
    Label(#[from] InvalidName),
    #[error(transparent)]
    Zone(#[from] InvalidZoneName),
    #[error(transparent)]
    Subdomain(#[from] InvalidResourceName),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What the tests of the kinds share.
#[cfg(test)]
mod testing {
    use super::*;
    use crate::document::{Address, Document, Tree, Value, Violation, parse_many, read_at};

    fn read<S: ResourceSpec>(spec: &str) -> Result<Document, Vec<Violation>> {
        let spec = parse_many(spec).unwrap().pop().map(|located| located.tree);
        let spec = spec.unwrap_or(Tree { value: Value::Object(vec![]), at: Default::default() });
        let key = crate::document::Key { text: "spec".into(), at: spec.at };
        let tree = Tree { at: spec.at, value: Value::Object(vec![(key, spec)]) };
        let kind = by_name(S::KIND.name).unwrap();
        let mesh = kind.is_mesh_scoped().then(|| "default".parse().unwrap());
        read_at(&tree, &Address { kind, mesh, name: "a".into(), origin: None })
    }

    /// The fields that are wrong in a spec.
    pub(super) fn wrong<S: ResourceSpec>(spec: &str) -> Vec<String> {
        read::<S>(spec).err().unwrap_or_default().into_iter().map(|violation| violation.field).collect()
    }

    /// A spec that must be right.
    pub(super) fn right<S>(spec: &str) -> S
    where
        S: ResourceSpec + Clone,
        for<'a> &'a S: TryFrom<&'a Spec>,
    {
        read::<S>(spec).unwrap().spec_as::<S>().unwrap().clone()
    }

    /// What a program makes is what a reader of its bytes finds.
    pub(super) fn assert_generates<S>(spec: S)
    where
        S: Generated + Clone + Into<Spec>,
    {
        let mesh = S::KIND.scope == Scope::Mesh;
        let mut labels = Labels::default();
        labels.set(crate::labels::WORKLOAD, "web");
        let document =
            Document::generate(mesh.then(|| "default".parse().unwrap()), "a".parse().unwrap(), labels, spec);
        let record = document.to_record("east-1-1".parse().unwrap());
        assert_eq!(Document::from_record(&record).unwrap(), document);
        let tree = crate::document::parse_one(std::str::from_utf8(&document.canonical()).unwrap()).unwrap();
        assert_eq!(crate::document::read(&tree, &Default::default()), Ok(document));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_are_found_by_name_and_by_path() {
        for kind in all() {
            assert_eq!(by_name(kind.name), Some(*kind));
            assert_eq!(by_plural(kind.plural), Some(*kind));
            assert_eq!(kind.key_name().as_str(), kind.name);
        }
        let words = all().iter().flat_map(|kind| {
            let singular = kind.name.to_ascii_lowercase();
            // A short name may be the singular, and nobody else's word.
            BTreeSet::from([kind.plural.to_owned(), kind.short.to_owned(), singular])
        });
        let mut seen = BTreeSet::new();
        assert_eq!(words.filter(|word| !seen.insert(word.clone())).collect::<Vec<_>>(), [""; 0]);
        assert!(by_name("meshservice").is_none());
    }

    #[test]
    fn a_zone_that_follows_writes_what_is_its_own() {
        let writers = |name: &str| {
            let kind = by_name(name).unwrap();
            (kind.may_be_written(false), kind.may_be_written(true))
        };
        assert_eq!(writers("Mesh"), (true, false));
        assert_eq!(writers("Dataplane"), (false, true));
        assert_eq!(writers("MeshTrafficPermission"), (true, true));
        assert_eq!(writers("Workload"), (false, false));
    }
}
