//! The documents that a zone knows, typed: what the compiler reads.

mod documents;

use std::collections::BTreeMap;
use std::sync::Arc;

use documents::Documents;
use model::document::Document;
use model::kinds::{MeshService, ResourceSpec, Spec, Zone};
use model::labels::Labels;
use model::{DocumentKey, MeshName, Name, Origin, Record, TrustDomain, Version, ZoneName};

/// One document that this program understands.
#[derive(Debug)]
pub struct Held {
    pub key: DocumentKey,
    pub version: Version,
    pub spec: Spec,
    /// As written.
    pub written: Labels,
    /// As written and as computed.
    pub labels: Labels,
    /// Stands for the text, which takes more than all else and is for the store to keep.
    digest: [u8; 32],
}

impl Held {
    pub fn says_the_same_as(&self, document: &Document) -> bool {
        self.digest == documents::digest(&document.canonical())
    }
}

/// Cheap to clone: the documents are shared.
#[derive(Clone, Debug, Default)]
pub struct View {
    shared: Documents,
    kinds: BTreeMap<&'static str, BTreeMap<DocumentKey, Arc<Held>>>,
    /// Documents of known kinds of which no version could be read so far.
    unread: BTreeMap<DocumentKey, Version>,
}

impl View {
    /// An empty one that holds in common with this one whatever document both are given.
    pub fn beside(&self) -> Self {
        Self { shared: self.shared.clone(), ..Self::default() }
    }

    /// Takes a document in. One that cannot be read leaves its last good version in force, and the error
    /// says why; one of an unknown kind is none of this program's business.
    pub fn put(&mut self, record: &Record) -> Result<(), model::document::Unreadable> {
        let Some(kind) = model::kinds::by_name(record.key.kind.as_str()) else { return Ok(()) };
        let held = match self.shared.get(record) {
            Ok(held) => held,
            Err(error) => {
                if self.any(&record.key).is_none() {
                    self.unread.insert(record.key.clone(), record.version.clone());
                }
                return Err(error);
            }
        };
        self.unread.remove(&record.key);
        self.kinds.entry(kind.name).or_default().insert(held.key.clone(), held);
        Ok(())
    }

    pub fn remove(&mut self, key: &DocumentKey) {
        self.unread.remove(key);
        if let Some(documents) = self.kinds.get_mut(key.kind.as_str()) {
            documents.remove(key);
        }
    }

    /// Every document of a known kind that is there, with the version that is in force, or that could not be read.
    pub fn versions(&self) -> impl Iterator<Item = (&DocumentKey, &Version)> {
        let held = self.kinds.values().flat_map(BTreeMap::values);
        held.map(|held| (&held.key, &held.version)).chain(&self.unread)
    }

    /// Whatever its kind.
    pub fn any(&self, key: &DocumentKey) -> Option<&Held> {
        self.kinds.get(key.kind.as_str())?.get(key).map(Arc::as_ref)
    }

    pub fn get<S>(&self, key: &DocumentKey) -> Option<(&Held, &S)>
    where
        S: ResourceSpec + 'static,
        for<'a> &'a S: TryFrom<&'a Spec>,
    {
        let held = self.kinds.get(key.kind.as_str())?.get(key)?;
        typed(held)
    }

    /// All documents of a kind, in the order of their keys.
    pub fn all<S>(&self) -> impl Iterator<Item = (&Held, &S)>
    where
        S: ResourceSpec + 'static,
        for<'a> &'a S: TryFrom<&'a Spec>,
    {
        let documents = self.kinds.get(S::KIND.name).into_iter().flat_map(BTreeMap::values);
        documents.filter_map(|held| typed(held))
    }

    /// Those of one mesh.
    pub fn of_mesh<S>(&self, mesh: &MeshName) -> impl Iterator<Item = (&Held, &S)>
    where
        S: ResourceSpec + 'static,
        for<'a> &'a S: TryFrom<&'a Spec>,
    {
        self.all::<S>().filter(move |(held, _)| held.key.mesh.as_ref() == Some(mesh))
    }

    /// Documents of a kind in a mesh that are there, and of which nobody here knows what they say.
    pub fn unread<S: ResourceSpec>(&self, mesh: &MeshName) -> impl Iterator<Item = (&DocumentKey, &Version)> {
        let of_mesh =
            move |key: &DocumentKey| key.kind.as_str() == S::KIND.name && key.mesh.as_ref() == Some(mesh);
        self.unread.iter().filter(move |(key, _)| of_mesh(key))
    }

    /// The zone that a trust domain of a mesh belongs to: by its name, or because the global gave it. None where
    /// nobody said, as in a zone that stands alone.
    pub fn owner(&self, mesh: &MeshName, domain: &TrustDomain) -> Option<ZoneName> {
        let by_name = domain.default_owner().filter(|(named, _)| named == mesh).map(|(_, zone)| zone);
        by_name.or_else(|| {
            let given = self.all::<Zone>().filter(|(held, _)| held.key.origin == Origin::Global);
            let (held, _) = given.into_iter().find(|(_, zone)| zone.trust_domains.contains(domain))?;
            held.key.name.as_str().parse().ok()
        })
    }

    /// The service of that name which a zone originated.
    pub fn service(&self, mesh: &MeshName, zone: &ZoneName, name: &Name) -> Option<(&Held, &MeshService)> {
        self.of_mesh::<MeshService>(mesh)
            .find(|(held, _)| held.key.origin.zone() == Some(zone) && held.key.name.as_str() == name.as_str())
    }
}

fn typed<S>(held: &Arc<Held>) -> Option<(&Held, &S)>
where
    for<'a> &'a S: TryFrom<&'a Spec>,
{
    let spec = <&S>::try_from(&held.spec).ok()?;
    Some((held, spec))
}
