//! A whole configuration in one file, for benchmarks, tests, and proxies without a control plane.
//!
//! YAML whose keys are the names of parts and signals, and whose values are those. `identity` and the bundles
//! of `trust` name PEM files, relative to the file. Everything is checked, fields that nobody knows included:
//! there is nobody else who would tell its author.
//!
//! The requests to an HTTP destination may go to others, which stand in the file as well:
//!
//! ```yaml
//! destination/ms_default_west__catalog_http:
//!   protocol: http
//!   identities: [spiffe://default.west.mesh.local/workload/catalog]
//!   connectionTimeout: 5000
//!   routes:                                       # the first rule that covers a request decides; none: 404
//!   - matches:                                    # any of these; without any, every request
//!     - path: {prefix: /items}                    # whole segments; or {exact: /items}
//!       method: GET
//!       headers: {x-beta: "yes"}                  # the whole value
//!     backends:                                   # by weight, 1 unless told; without any: 500
//!     - {destination: ms_default_west__catalog_http, weight: 9}
//!     - {destination: ms_default_west__catalog-next_http}
//!   - backends: [{destination: ms_default_west__catalog_http}]
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use identity::{Svid, TrustStore};
use model::{DestinationId, SpiffeId};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use snapshot::parts::{Destination, Endpoints, Inbound, Listeners, PartName, SignalName, Trust};
use traffic::{Credentials, ProxyConfig};

/// What a file asks for.
#[derive(Debug)]
pub struct Static {
    pub config: ProxyConfig,
    pub endpoints: BTreeMap<DestinationId, Endpoints>,
}

/// Reads a file and the files that it names. An error says where in the file it is.
pub fn read(path: &Path) -> anyhow::Result<Static> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let content = parse(&text).with_context(|| format!("{} is not a configuration", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    complete(content, folder).with_context(|| format!("{} cannot be used", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Content> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The file alone.
#[derive(Debug, Default)]
struct Content {
    identity: Option<IdentityFiles>,
    trust: Trust,
    listeners: Listeners,
    inbounds: BTreeMap<u16, Arc<Inbound>>,
    destinations: BTreeMap<DestinationId, Arc<Destination>>,
    endpoints: BTreeMap<DestinationId, Endpoints>,
}

#[derive(Debug, Deserialize)]
struct IdentityFiles {
    id: SpiffeId,
    certificate: PathBuf,
    key: PathBuf,
}

fn complete(content: Content, folder: &Path) -> anyhow::Result<Static> {
    let Content { identity, trust, listeners, inbounds, destinations, endpoints } = content;
    for listener in &listeners.outbound {
        let id = &listener.destination;
        ensure!(
            destinations.contains_key(id),
            "a listener leads to {id}, and there is no 'destination/{id}'"
        );
    }
    for (from, part) in &destinations {
        let unknown = |id: &&DestinationId| !destinations.contains_key(*id);
        if let Some(id) = part.backends().find(unknown) {
            bail!("a route of {from} leads to {id}, and there is no 'destination/{id}'");
        }
    }
    if let Some(id) = endpoints.keys().find(|id| !destinations.contains_key(id)) {
        bail!("there is an 'endpoints/{id}', and no 'destination/{id}'");
    }

    let read = |file: &Path| {
        let path = folder.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let identity = identity.context("there is no 'identity'")?;
    let svid = Svid::from_pem(&read(&identity.certificate)?, &read(&identity.key)?)
        .with_context(|| format!("{} is not an identity", identity.certificate.display()))?;
    let (found, wanted) = (svid.id(), &identity.id);
    ensure!(found == wanted, "{} is of {found}, not {wanted}", identity.certificate.display());

    let mut bundles = Vec::new();
    for (domain, trust) in trust.domains {
        bundles.push((domain, trust.zone, read(Path::new(&trust.bundle))?));
    }
    let (trust, problems) = TrustStore::from_bundles(bundles);
    if let Some(problem) = problems.first() {
        bail!("{problem}");
    }
    let credentials = Arc::new(Credentials::new(&svid, Arc::new(trust))?);
    let config = ProxyConfig { outbound: listeners.outbound, inbounds, destinations, credentials };
    Ok(Static { config, endpoints })
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parts and signals by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut content = Content::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Part(PartName::Identity) => content.identity = Some(map.next_value_seed(strict())?),
                Key::Part(PartName::Trust) => content.trust = map.next_value_seed(strict())?,
                Key::Part(PartName::Listeners) => content.listeners = map.next_value_seed(strict())?,
                Key::Part(PartName::Inbound(port)) => {
                    content.inbounds.insert(port, Arc::new(map.next_value_seed(strict())?));
                }
                Key::Part(PartName::Destination(id)) => {
                    content.destinations.insert(id, Arc::new(map.next_value_seed(strict())?));
                }
                Key::Endpoints(id) => {
                    content.endpoints.insert(id, map.next_value_seed(strict())?);
                }
            }
        }
        Ok(content)
    }
}

enum Key {
    Part(PartName),
    Endpoints(DestinationId),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.parse(), text.parse()) {
            (Ok(part), _) => Ok(Self::Part(part)),
            (Err(_), Ok(SignalName::Endpoints(id))) => Ok(Self::Endpoints(id)),
            _ => Err(D::Error::custom(format!(
                "'{text}' is no part: use identity, trust, listeners, inbound/<port>, destination/<id> and \
                 endpoints/<id>"
            ))),
        }
    }
}

/// A value in which every field means something. Parts are tolerant of fields from the future; people make
/// typing mistakes.
fn strict<T>() -> Strict<T> {
    Strict(PhantomData)
}

struct Strict<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Strict<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        let mut unknown = Vec::new();
        let value = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))?;
        match unknown.first() {
            None => Ok(value),
            Some(field) => Err(D::Error::custom(format!("unknown field '{field}'"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
identity:
  id: spiffe://default.east.mesh.local/workload/web
  certificate: web.crt
  key: web.key
trust:
  default.east.mesh.local: {zone: east, bundle: east.pem}
listeners:
  outbound:
  - address: 127.0.0.1:10080
    destination: ms_default_west__catalog_http
inbound/8080:
  listen: 127.0.0.1:18080
  application: 127.0.0.1:8080
  protocol: http
  access:
    rules:
    - effect: allow
      clients: anyone
      origin: {policy: MeshTrafficPermission/default/global//open, version: global-1-1, path: spec}
destination/ms_default_west__catalog_http:
  protocol: http
  identities: [spiffe://default.west.mesh.local/workload/catalog]
  connectionTimeout: 5000
endpoints/ms_default_west__catalog_http:
- address: 127.0.0.1:10001
  sni: catalog.west.tombolo.internal
  identity: spiffe://default.west.mesh.local/workload/catalog
  zone: west
";

    #[test]
    fn a_file_holds_parts_and_signals_by_their_names() {
        let content = parse(WHOLE).unwrap();
        let id: DestinationId = "ms_default_west__catalog_http".parse().unwrap();
        assert_eq!(content.listeners.outbound[0].destination, id);
        assert_eq!(content.inbounds[&8080].access.rules.len(), 1);
        assert_eq!(content.destinations[&id].identities.len(), 1);
        assert_eq!((content.endpoints[&id].0[0].ready, content.endpoints[&id].0[0].weight), (true, 1));
        assert_eq!(content.trust.domains.len(), 1);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let cases = [
            ("  protocol: http\n  identities", "  protocol: htp\n  identities", "line 21", "htp"),
            (
                "5000\n",
                "5000\n  routes: [{matches: [{path: {prefix: items}}], backends: []}]\n",
                "line 24",
                "items",
            ),
            ("zone: west\n", "zone: west\n  wieght: 3\n", "line 2", "wieght"),
            ("inbound/8080", "inbounds/8080", "line 11", "inbounds/8080"),
            ("127.0.0.1:10080", "localhost:10080", "line 9", "address"),
            ("listeners:\n", "trust: {}\nlisteners:\n", "line 7", "trust"),
            ("  key: web.key\n", "", "line 3", "key"),
        ];
        for (from, to, line, what) in cases {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE, "{from}");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(line) && error.contains(what), "{to}: {error}");
        }
    }

    #[test]
    fn what_refers_to_nothing_is_an_error() {
        let cases = [
            (
                "destination/ms_default_west__catalog_http:\n",
                "destination/ms_default_west__other_http:\n",
                "listener",
            ),
            (
                "endpoints/ms_default_west__catalog_http:\n",
                "endpoints/ms_default_west__other_http:\n",
                "endpoints/",
            ),
            (
                "  connectionTimeout: 5000\n",
                "  connectionTimeout: 5000\n  routes: [{backends: [{destination: ms_default_west__other_http}]}]\n",
                "a route",
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        for (from, to, want) in cases {
            let content = parse(&WHOLE.replacen(from, to, 1)).unwrap();
            let error = format!("{:#}", complete(content, folder.path()).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
        let missing = complete(parse(WHOLE).unwrap(), folder.path()).unwrap_err();
        assert!(format!("{missing:#}").contains("web.crt"), "{missing:#}");
    }
}
