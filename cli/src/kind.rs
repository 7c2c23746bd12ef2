//! The kind that a person names: `meshservices`, `meshservice`, `MeshService` and `msvc` are one. And where the
//! document is that they name.

use clap::Args;
use model::kinds::{self, Kind};

use crate::client::encode;
use crate::failure::Failure;

/// One document, as a command line names it.
#[derive(Debug, Args)]
pub(crate) struct DocumentArgs {
    /// Its kind: mesh, meshtrafficpermission, mtp, ... (see 'tombolo kinds')
    kind: String,
    pub(crate) name: String,
    /// Its mesh, for kinds that are in one
    #[arg(short, long, default_value = "default")]
    mesh: String,
    #[command(flatten)]
    owner: OwnerArgs,
}

impl DocumentArgs {
    /// Its kind, and where it is.
    pub(crate) fn find(&self) -> Result<(&'static Kind, String), Failure> {
        let kind = parse(&self.kind)?;
        let path = document(kind, &self.mesh, &self.name)?;
        Ok((kind, with_query(&path, &self.owner.query())))
    }
}

/// Whose document is meant.
#[derive(Debug, Args)]
pub(crate) struct OwnerArgs {
    /// The zone that owns it; 'global' for the global
    #[arg(long)]
    zone: Option<String>,
    /// Its namespace
    #[arg(long)]
    namespace: Option<String>,
}

impl OwnerArgs {
    pub(crate) fn query(&self) -> Vec<String> {
        let parameters = [("zone", &self.zone), ("namespace", &self.namespace)];
        let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.map(|(name, value)| format!("{name}={}", encode(value))).collect()
    }
}

pub(crate) fn with_query(path: &str, query: &[String]) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

pub(crate) fn parse(text: &str) -> Result<&'static Kind, Failure> {
    let wanted = text.to_ascii_lowercase();
    let found = kinds::all()
        .iter()
        .copied()
        .find(|kind| [kind.plural, kind.short, &kind.name.to_ascii_lowercase()].contains(&wanted.as_str()));
    found.ok_or_else(|| {
        let known: Vec<&str> = kinds::all().iter().map(|kind| kind.plural).collect();
        let todo = format!("use one of {}; 'tombolo kinds' has short names", known.join(", "));
        Failure::usage(format!("'{text}' is no kind of document"), todo)
    })
}

/// Where documents of a kind are: `/meshes/default/meshservices`, `/zones`.
pub(crate) fn path(kind: &Kind, mesh: Option<&str>) -> String {
    match mesh.filter(|_| kind.is_mesh_scoped()) {
        Some(mesh) => format!("/meshes/{mesh}/{}", kind.plural),
        None => format!("/{}", kind.plural),
    }
}

/// The path of one document; a name that the kind cannot have is a mistake of the command line.
pub(crate) fn document(kind: &Kind, mesh: &str, name: &str) -> Result<String, Failure> {
    let name = kind
        .parse_name(name)
        .map_err(|error| Failure::usage(error.to_string(), "look at the name once more"))?;
    Ok(format!("{}/{name}", path(kind, Some(mesh))))
}

/// As `-o name` shows a document, and as `get` and `describe` take it: `meshservice/web`.
pub(crate) fn reference(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_words() {
        for word in ["MeshService", "meshservice", "meshservices", "MESHSERVICES", "msvc"] {
            assert_eq!(parse(word).unwrap().name, "MeshService");
        }
        assert!(parse("meshserv").is_err());
    }

    #[test]
    fn paths_have_a_mesh_where_the_kind_has() {
        let (service, zone) = (parse("meshservice").unwrap(), parse("zone").unwrap());
        assert_eq!(document(service, "shop", "web").unwrap(), "/meshes/shop/meshservices/web");
        assert_eq!(document(zone, "shop", "east").unwrap(), "/zones/east");
        assert!(document(zone, "shop", "global").is_err(), "no zone has this name");
    }
}
