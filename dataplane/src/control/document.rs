//! The Dataplane document of this proxy, as its author wrote it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use identity::Peer;
use model::document::{self, Defaults, SyntaxError, Violation};
use model::kinds::Dataplane;
use model::{Document, DocumentKey, Origin, ZoneName};
use tracing::warn;

/// What this proxy says of itself.
#[derive(Clone, Debug)]
pub struct OwnDocument {
    document: Document,
    /// The ports of its inbounds, by which their parts are called.
    pub ports: BTreeSet<u16>,
}

/// Why a file is not the Dataplane of a proxy. The text has one line for each mistake.
#[derive(Debug, thiserror::Error)]
pub enum NotADataplane {
    #[error("cannot read {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}:{}:{}: {}", .error.line, .error.column, .error.message)]
    Syntax { path: PathBuf, error: SyntaxError },
    #[error("{}", lines(.path, .violations))]
    Invalid { path: PathBuf, violations: Vec<Violation> },
    #[error("{path} is a {found}, and a proxy needs a Dataplane")]
    AnotherKind { path: PathBuf, found: &'static str },
}

fn lines(path: &Path, violations: &[Violation]) -> String {
    let line = |Violation { field, reason, line, column }: &Violation| {
        format!("{}:{line}:{column}: {field} {reason}", path.display())
    };
    violations.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl OwnDocument {
    pub fn read(path: &Path) -> Result<Self, NotADataplane> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| NotADataplane::File { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// `path` stands in errors only.
    fn parse(text: &str, path: &Path) -> Result<Self, NotADataplane> {
        let path = || path.to_owned();
        let tree =
            document::parse_one(text).map_err(|error| NotADataplane::Syntax { path: path(), error })?;
        let document = document::read(&tree, &Defaults::default())
            .map_err(|violations| NotADataplane::Invalid { path: path(), violations })?;
        let Some(dataplane) = document.spec_as::<Dataplane>() else {
            return Err(NotADataplane::AnotherKind { path: path(), found: document.kind.name });
        };
        if dataplane.transparent_proxying.is_some() {
            warn!("nothing is intercepted: only the ports of 'outbound' lead into the mesh");
        }
        let ports = dataplane.inbounds.iter().map(|inbound| inbound.port).collect();
        Ok(Self { document, ports })
    }

    /// Whom it joins its zone as.
    pub fn peer(&self) -> Peer {
        let mesh = self.document.mesh.clone().expect("a Dataplane stands in a mesh");
        Peer::Proxy { mesh, name: self.document.name.clone() }
    }

    /// What identifies it in its zone.
    pub fn key(&self, zone: &ZoneName) -> DocumentKey {
        self.document.key(&Origin::Zone(zone.clone()))
    }

    pub fn canonical(&self) -> Bytes {
        self.document.canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataplane_says_who_it_is_and_where_it_listens() {
        let text = "\
type: Dataplane
name: web-1
labels: {tombolo.io/workload: web}
networking:
  address: 127.0.0.1
  inbound:
    - {port: 8080, servicePort: 80, protocol: http}
    - {port: 8081, servicePort: 81}
";
        let own = OwnDocument::parse(text, Path::new("web.yaml")).unwrap();
        assert_eq!(own.peer().to_string(), "proxy/default/web-1");
        assert_eq!(own.ports, BTreeSet::from([8080, 8081]));
        assert_eq!(own.key(&"east".parse().unwrap()).to_string(), "Dataplane/default/east//web-1");
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let text = "\
type: Dataplane
name: web-1
networking:
  address: 127.0.0.1
  inbund: []
  inbound:
    - {port: 70000}
";
        let error = OwnDocument::parse(text, Path::new("web.yaml")).unwrap_err().to_string();
        let places: Vec<&str> = error.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(places, ["web.yaml:5:3:", "web.yaml:7:14:"], "{error}");

        let cases = [
            ("type: Mesh\nname: default\n", "web.yaml is a Mesh, and a proxy needs a Dataplane"),
            ("type: [\n", "web.yaml:"),
        ];
        for (text, want) in cases {
            let error = OwnDocument::parse(text, Path::new("web.yaml")).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }
}
