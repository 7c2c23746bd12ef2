//! MeshIdentity: which proxies get which SPIFFE id from which provider.

use std::time::Duration;

use serde_json::json;

use super::{Author, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::{self, Defaults, Document, Fields, Item, Tree};
use crate::labels::{self, Labels};
use crate::name::{MeshName, ResourceName, ZoneName};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::template::{InvalidTemplate, Template, Unrendered};

#[derive(Clone, Debug, PartialEq)]
pub struct MeshIdentity {
    /// The proxies that carry all of these; without a selector nobody, with an empty one everybody.
    pub selector: Option<Labels>,
    pub trust_domain: Option<Template>,
    pub path: Option<Template>,
    pub provider: Provider,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Provider {
    /// The zone's own CA.
    Bundled(Bundled),
    /// A SPIRE agent beside the proxy.
    Spire,
    /// A plug-in of that name.
    Extension { name: String },
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bundled {
    /// The zone makes the CA; else it is given in the document.
    pub autogenerate: bool,
    /// How long certificates are valid; without it, 24 h.
    pub expiry: Option<Duration>,
    /// Whether the zone publishes a MeshTrust for it.
    pub creates_trust: bool,
    pub allows_self_signed: bool,
}

const TRUST_DOMAIN_WORDS: &[&str] = &[".Mesh", ".Zone"];
const PATH_WORDS: &[&str] = &[".Mesh", ".Zone", ".Namespace", ".ServiceAccount", ".Workload"];

/// Why a proxy gets no id.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoIdentity {
    #[error("the proxy has no {0}, which its SPIFFE id is to be made of")]
    Missing(String),
    #[error("the templates make '{0}', which is not a SPIFFE id")]
    NotAnId(String),
}

impl MeshIdentity {
    /// What a new mesh has: an id from the zone's own CA for everybody.
    pub fn for_everybody(mesh: &MeshName) -> Document {
        let json = json!({
            "type": "MeshIdentity",
            "mesh": mesh,
            "name": "mesh-identity-all",
            "spec": {
                "selector": { "dataplane": { "matchLabels": {} } },
                "provider": { "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } },
            },
        });
        document::read(&Tree::from(json), &Defaults::default()).expect("the document above is valid")
    }

    pub fn selects(&self, proxy: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|wanted| proxy.cover(wanted))
    }

    /// Of several identities the one for a proxy: with the most labels, then the smallest name.
    pub fn choose<'a, T>(
        identities: impl IntoIterator<Item = (&'a ResourceName, &'a MeshIdentity, T)>,
        proxy: &Labels,
    ) -> Option<(&'a MeshIdentity, T)> {
        let rank = |(name, identity, _): &(&'a ResourceName, &'a MeshIdentity, T)| {
            (std::cmp::Reverse(identity.selector.as_ref().map_or(0, Labels::len)), *name)
        };
        identities
            .into_iter()
            .filter(|(_, identity, _)| identity.selects(proxy))
            .min_by_key(rank)
            .map(|(_, identity, tag)| (identity, tag))
    }

    /// `<mesh>.<zone>.mesh.local` unless the document says otherwise.
    pub fn trust_domain(&self, mesh: &MeshName, zone: &ZoneName) -> Result<TrustDomain, NoIdentity> {
        let text = match &self.trust_domain {
            None => format!("{mesh}.{zone}.mesh.local"),
            Some(template) => {
                let words = |word: &str| match word {
                    ".Mesh" => Some(mesh.to_string()),
                    ".Zone" => Some(zone.to_string()),
                    _ => None,
                };
                template.render(words, |_| None)?
            }
        };
        text.parse().map_err(|_| NoIdentity::NotAnId(text))
    }

    /// The id of a proxy, from its labels as computed: `tombolo.io/workload`, or on Kubernetes namespace
    /// and service account. By default the path is `/ns/<namespace>/sa/<service account>` where the proxy has both,
    /// else `/workload/<workload>`.
    pub fn spiffe_id(&self, mesh: &MeshName, zone: &ZoneName, proxy: &Labels) -> Result<SpiffeId, NoIdentity> {
        let domain = self.trust_domain(mesh, zone)?;
        let words = |word: &str| match word {
            ".Mesh" => Some(mesh.to_string()),
            ".Zone" => Some(zone.to_string()),
            ".Namespace" => proxy.get(labels::NAMESPACE).map(str::to_owned),
            ".ServiceAccount" => proxy.get(labels::SERVICE_ACCOUNT).map(str::to_owned),
            ".Workload" => proxy.get(labels::WORKLOAD).map(str::to_owned),
            _ => None,
        };
        let path = match &self.path {
            Some(template) => template.render(words, |key| proxy.get(key).map(str::to_owned))?,
            None => match (words(".Namespace"), words(".ServiceAccount"), words(".Workload")) {
                (Some(namespace), Some(account), _) => format!("/ns/{namespace}/sa/{account}"),
                (_, _, Some(workload)) => format!("/workload/{workload}"),
                _ => return Err(NoIdentity::Missing(labels::WORKLOAD.into())),
            },
        };
        SpiffeId::new(&domain, &path).map_err(|_| NoIdentity::NotAnId(format!("spiffe://{domain}{path}")))
    }
}

impl From<Unrendered> for NoIdentity {
    fn from(Unrendered(word): Unrendered) -> Self {
        Self::Missing(word)
    }
}

impl ResourceSpec for MeshIdentity {
    const KIND: Kind = Kind {
        name: "MeshIdentity",
        plural: "meshidentities",
        short: "mid",
        scope: Scope::Mesh,
        author: Author::Both,
        travels: Travels::DOWN_AND_UP,
        naming: Naming::Subdomain,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let selector = fields
            .filled("selector")
            .and_then(|item| item.object(|fields| fields.optional("dataplane")?.match_labels()));
        let templates = fields.filled("spiffeID").and_then(|item| {
            item.object(|fields| {
                let domain = fields.optional("trustDomain").and_then(|item| {
                    let probe = |text: &str| text.parse::<TrustDomain>().is_ok();
                    read_template(&item, TRUST_DOMAIN_WORDS, probe, "a trust domain")
                });
                let path = fields.optional("path").and_then(|item| {
                    let domain: TrustDomain = "td".parse().expect("'td' is a trust domain");
                    let probe = |text: &str| SpiffeId::new(&domain, text).is_ok();
                    read_template(&item, PATH_WORDS, probe, "the path of a SPIFFE id, such as /workload/web")
                });
                Some((domain, path))
            })
        });
        let provider = fields.required("provider").and_then(|item| read_provider(&item));
        let (trust_domain, path) = templates.unwrap_or_default();
        Some(Self { selector, trust_domain, path, provider: provider? })
    }
}

/// A template that makes something valid of usual values.
fn read_template(
    item: &Item<'_>,
    words: &[&str],
    is_valid: impl Fn(&str) -> bool,
    what: &str,
) -> Option<Template> {
    let template: Template =
        Template::parse(item.text()?, words).map_err(|error: InvalidTemplate| item.refuse(error)).ok()?;
    match template.render(|_| Some("x".into()), |_| Some("x".into())) {
        Ok(text) if is_valid(&text) => Some(template),
        Ok(text) => item.fail(format!("would make '{text}', which is not {what}")),
        Err(Unrendered(word)) => item.fail(format!("needs {word}")),
    }
}

#[derive(Clone, Copy)]
enum ProviderType {
    Bundled,
    Spire,
    Extension,
}

fn read_provider(item: &Item<'_>) -> Option<Provider> {
    item.object(|fields| {
        let words = [
            ("Bundled", ProviderType::Bundled),
            ("Spire", ProviderType::Spire),
            ("Extension", ProviderType::Extension),
        ];
        let provider = fields.required("type").and_then(|item| item.one_of(&words));
        match provider? {
            ProviderType::Bundled => fields.required("bundled").and_then(|item| read_bundled(&item)),
            ProviderType::Spire => {
                if let Some(item) = fields.optional("spire") {
                    item.object(|fields| {
                        fields.optional("agent")?.object(|fields| fields.optional("timeout")?.duration())
                    });
                }
                Some(Provider::Spire)
            }
            ProviderType::Extension => fields.required("extension")?.object(|fields| {
                fields.ignore("config");
                let name = fields.required("name")?.non_empty_text()?;
                Some(Provider::Extension { name: name.to_owned() })
            }),
        }
    })
}

fn read_bundled(item: &Item<'_>) -> Option<Provider> {
    item.object(|fields| {
        let autogenerate = fields
            .filled("autogenerate")
            .and_then(|item| item.object(|fields| fields.required("enabled")?.bool()))
            .unwrap_or_default();
        let ca = fields.filled("ca");
        if autogenerate == ca.is_some() {
            fields.whole().refuse("must have one of autogenerate.enabled and ca");
        }
        if let Some(ca) = ca {
            ca.object(|fields| {
                fields.required("certificate").and_then(|item| item.data_source());
                fields.required("privateKey").and_then(|item| item.data_source())
            });
        }
        let expiry = fields.filled("certificateParameters").and_then(|item| {
            item.object(|fields| {
                let item = fields.optional("expiry")?;
                match item.duration()? {
                    Duration::ZERO => item.fail("must be greater than zero"),
                    expiry => Some(expiry),
                }
            })
        });
        let creates_trust = fields
            .optional("meshTrustCreation")
            .and_then(|item| item.one_of(&[("Enabled", true), ("Disabled", false)]));
        let allows_self_signed = fields.optional("insecureAllowSelfSigned").and_then(|item| item.bool());
        Some(Provider::Bundled(Bundled {
            autogenerate,
            expiry,
            creates_trust: creates_trust.unwrap_or(true),
            allows_self_signed: allows_self_signed.unwrap_or_default(),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{right, wrong};

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    const BUNDLED: &str = "provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}";

    fn identity(head: &str) -> MeshIdentity {
        right(&format!("{head}\n{BUNDLED}"))
    }

    #[test]
    fn a_new_mesh_gives_everybody_an_identity() {
        let document = MeshIdentity::for_everybody(&"shop".parse().unwrap());
        let spec = document.spec_as::<MeshIdentity>().unwrap();
        assert!(spec.selects(&Labels::default()));
        let Provider::Bundled(bundled) = &spec.provider else { panic!("{spec:?}") };
        assert!(bundled.autogenerate && bundled.creates_trust && !bundled.allows_self_signed);
        assert_eq!(document.mesh.as_deref(), Some("shop"));
    }

    #[test]
    fn an_id_follows_the_templates_and_by_default_where_the_proxy_runs() {
        let workload = labels(&[("tombolo.io/workload", "web"), ("team", "a")]);
        let pod = labels(&[
            ("k8s.kuma.io/namespace", "ns"),
            ("k8s.tombolo.io/service-account", "sa"),
            ("tombolo.io/workload", "web"),
        ]);
        let custom = "spiffeID: {trustDomain: '{{ .Mesh }}.example', path: '/{{ label \"team\" }}/{{ .Workload }}'}";
        let cases = [
            ("", &workload, Ok("spiffe://shop.east.mesh.local/workload/web")),
            ("", &pod, Ok("spiffe://shop.east.mesh.local/ns/ns/sa/sa")),
            (custom, &workload, Ok("spiffe://shop.example/a/web")),
            (custom, &pod, Err(NoIdentity::Missing("team".into()))),
            ("", &Labels::default(), Err(NoIdentity::Missing("tombolo.io/workload".into()))),
        ];
        for (head, proxy, want) in cases {
            let id = identity(head).spiffe_id(&"shop".parse().unwrap(), &"east".parse().unwrap(), proxy);
            assert_eq!(id.map(String::from), want.map(str::to_owned), "{head} {proxy:?}");
        }
    }

    #[test]
    fn the_most_labels_choose_then_the_smallest_name() {
        let all = [
            ("nobody", identity("")),
            ("z-everybody", identity("selector: {dataplane: {matchLabels: {}}}")),
            ("everybody", identity("selector: {dataplane: {matchLabels: {}}}")),
            ("shop", identity("selector: {dataplane: {matchLabels: {app: shop}}}")),
            ("bank", identity("selector: {dataplane: {matchLabels: {app: bank, kuma.io/zone: east}}}")),
        ]
        .map(|(name, identity)| (name.parse::<ResourceName>().unwrap(), identity));
        let chosen = |proxy: &[(&str, &str)]| {
            let all = all.iter().map(|(name, identity)| (name, identity, name.as_str()));
            MeshIdentity::choose(all, &labels(proxy)).map(|(_, name)| name)
        };
        assert_eq!(chosen(&[]), Some("everybody"));
        assert_eq!(chosen(&[("app", "shop")]), Some("shop"));
        assert_eq!(chosen(&[("app", "bank")]), Some("everybody"));
        assert_eq!(chosen(&[("app", "bank"), ("tombolo.io/zone", "east")]), Some("bank"));
        assert_eq!(MeshIdentity::choose([], &Labels::default()).map(|(_, tag): (_, ())| tag), None);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("", vec!["spec.provider"]),
            ("provider: {type: Magic}", vec!["spec.provider.type"]),
            ("provider: {type: Bundled}", vec!["spec.provider.bundled"]),
            ("provider: {type: Bundled, bundled: {}}", vec!["spec.provider.bundled"]),
            ("provider: {type: Bundled, bundled: {autogenerate: {enabled: false}}}", vec!["spec.provider.bundled"]),
            (
                "provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, certificateParameters: {expiry: 0s}}}",
                vec!["spec.provider.bundled.certificateParameters.expiry"],
            ),
            (
                "provider: {type: Bundled, bundled: {ca: {certificate: {type: File, file: {path: /a}}, privateKey: {type: Secret}}}}",
                vec![
                    "spec.provider.bundled.ca.certificate.type",
                    "spec.provider.bundled.ca.certificate.file",
                    "spec.provider.bundled.ca.privateKey.secretRef",
                ],
            ),
            (
                "provider: {type: Spire}\nspiffeID: {trustDomain: '{{ .Workload }}', path: 'workload/{{ .Workload }}'}",
                vec!["spec.spiffeID.trustDomain", "spec.spiffeID.path"],
            ),
            ("provider: {type: Spire}\nselector: {dataplane: {}}", vec!["spec.selector.dataplane.matchLabels"]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshIdentity>(spec), want, "{spec}");
        }
        let given = "provider:
  type: Bundled
  bundled:
    ca:
      certificate: {type: InsecureInline, insecureInline: {value: x}}
      privateKey: {type: Secret, secretRef: {kind: Secret, name: key}}
    meshTrustCreation: Disabled
    insecureAllowSelfSigned: true
    certificateParameters: {expiry: 1h}";
        let want = Bundled {
            autogenerate: false,
            expiry: Some(Duration::from_secs(3600)),
            creates_trust: false,
            allows_self_signed: true,
        };
        assert_eq!(right::<MeshIdentity>(given).provider, Provider::Bundled(want));
        right::<MeshIdentity>("provider: {type: Spire, spire: {agent: {timeout: 1s}}}");
        right::<MeshIdentity>("provider: {type: Extension, extension: {name: mine, config: {any: [thing]}}}");
    }
}
