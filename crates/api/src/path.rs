//! Paths of documents: `/meshes/{mesh}/{plural}/{name}` and `/{plural}/{name}`, with or without the name.

use model::kinds::{self, Kind};
use model::{MeshName, ResourceName};

use crate::query::decode;
use crate::shapes::Problem;

/// What a path stands for.
#[derive(Debug)]
pub(crate) enum Target {
    One(Place),
    /// All of a kind: in one mesh, or everywhere.
    All {
        kind: &'static Kind,
        mesh: Option<MeshName>,
    },
}

/// A document, but for the origin: the name may stand for several.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub kind: &'static Kind,
    pub mesh: Option<MeshName>,
    /// As it stands in the path: for a document that is written a bad name is one mistake among others.
    pub name: String,
}

impl Place {
    /// The name as its kind wants it.
    pub(crate) fn checked_name(&self) -> Result<ResourceName, Problem> {
        self.kind.parse_name(&self.name).map_err(|error| Problem::invalid_request("name", error.to_string()))
    }

    /// For people: `MeshService 'web' of mesh 'default'`.
    pub(crate) fn describe(&self) -> String {
        let Self { kind, mesh, name } = self;
        match mesh {
            Some(mesh) => format!("{kind} '{name}' of mesh '{mesh}'"),
            None => format!("{kind} '{name}'"),
        }
    }
}

pub(crate) fn parse(path: &str) -> Result<Target, Problem> {
    let segments: Option<Vec<String>> =
        path.strip_prefix('/').unwrap_or(path).split('/').map(|segment| decode(segment, false)).collect();
    let segments = segments.unwrap_or_default();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["meshes", mesh, plural] => Ok(Target::All { kind: in_mesh(plural)?, mesh: Some(mesh_name(mesh)?) }),
        ["meshes", mesh, plural, name] => {
            let kind = in_mesh(plural)?;
            Ok(Target::One(Place { kind, mesh: Some(mesh_name(mesh)?), name: (*name).to_owned() }))
        }
        [plural] => Ok(Target::All { kind: known(plural)?, mesh: None }),
        [plural, name] => {
            let kind = known(plural)?;
            if kind.is_mesh_scoped() {
                return Err(Problem::not_found(format!(
                    "{kind} documents are in a mesh: use /meshes/<mesh>/{plural}/{name}"
                )));
            }
            Ok(Target::One(Place { kind, mesh: None, name: (*name).to_owned() }))
        }
        _ => Err(Problem::not_found(format!("there is nothing at {path}"))),
    }
}

fn known(plural: &str) -> Result<&'static Kind, Problem> {
    kinds::by_plural(plural).ok_or_else(|| {
        let known: Vec<&str> = kinds::all().iter().map(|kind| kind.plural).collect();
        Problem::not_found(format!("'{plural}' is no kind of document: there are {}", known.join(", ")))
    })
}

fn in_mesh(plural: &str) -> Result<&'static Kind, Problem> {
    let kind = known(plural)?;
    if kind.is_mesh_scoped() {
        return Ok(kind);
    }
    Err(Problem::not_found(format!("{kind} documents are outside of meshes: use /{plural}")))
}

fn mesh_name(text: &str) -> Result<MeshName, Problem> {
    text.parse().map_err(|error| Problem::invalid_request("mesh", format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_documents_in_meshes_and_outside() {
        let shown = |path: &str| match parse(path) {
            Ok(Target::One(place)) => match place.checked_name() {
                Ok(_) => place.describe(),
                Err(problem) => problem.status.to_string(),
            },
            Ok(Target::All { kind, mesh }) => format!("all {kind} of {mesh:?}"),
            Err(problem) => problem.status.to_string(),
        };
        for (path, want) in [
            ("/meshes/default", "Mesh 'default'"),
            ("/meshes", "all Mesh of None"),
            ("/zones/east", "Zone 'east'"),
            ("/meshservices", "all MeshService of None"),
            ("/meshes/shop/meshservices", "all MeshService of Some(\"shop\")"),
            ("/meshes/shop/meshservices/web", "MeshService 'web' of mesh 'shop'"),
            ("/meshes/shop/meshservices/w%65b", "MeshService 'web' of mesh 'shop'"),
            ("/meshservices/web", "404"),
            ("/meshes/shop/zones", "404"),
            ("/meshes/shop/nothings/x", "404"),
            ("/", "404"),
            ("/meshes//meshservices", "400"),
            ("/meshes/shop/meshservices/", "400"),
            ("/meshes/shop/meshservices/..%2f..", "400"),
            ("/meshes/shop/meshservices/%ff", "404"),
            ("/meshes/shop/meshservices/web/x", "404"),
        ] {
            assert_eq!(shown(path), want, "{path}");
        }
    }
}
