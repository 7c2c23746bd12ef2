//! MeshService: a destination in the mesh, the ports of some proxies under one name.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Author, Generated, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::destination::{Protocol, SectionName};
use crate::document::{Fields, Item, Value};
use crate::labels::Labels;
use crate::name::{Name, ResourceName};
use crate::spiffe::SpiffeId;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MeshService {
    /// Without one, no proxy stands behind the service.
    pub selector: Option<Selector>,
    pub ports: Vec<Port>,
    /// Written by the zone: the ids that its instances prove to be.
    pub identities: Vec<SpiffeId>,
    pub state: State,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// One proxy.
    Dataplane(ResourceName),
    /// The proxies that carry all of these.
    Labels(Labels),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Port {
    pub name: Option<Name>,
    pub port: u16,
    /// The inbound of the proxies behind it.
    pub target: SectionName,
    pub protocol: Protocol,
}

impl Port {
    pub fn section(&self) -> SectionName {
        self.name.clone().map_or_else(|| self.port.into(), SectionName::from)
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    #[default]
    Unavailable,
    /// Some instance is ready.
    Available,
}

const PROTOCOLS: [(&str, Protocol); 4] =
    [("tcp", Protocol::Tcp), ("http", Protocol::Http), ("http2", Protocol::Http2), ("grpc", Protocol::Grpc)];

impl Item<'_> {
    /// The name of a protocol, in any case.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        let text = self.text()?;
        match PROTOCOLS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)) {
            Some((_, protocol)) => Some(*protocol),
            None => self.fail(format!("must be one of tcp, http, http2, grpc, not '{text}'")),
        }
    }
}

impl ResourceSpec for MeshService {
    const KIND: Kind = Kind {
        name: "MeshService",
        plural: "meshservices",
        short: "msvc",
        scope: Scope::Mesh,
        author: Author::Zone,
        travels: Travels::UP_AND_ACROSS,
        naming: Naming::Label,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let selector = fields.filled("selector").and_then(|item| read_selector(&item));
        let (mut numbers, mut sections) = (BTreeSet::new(), BTreeSet::new());
        let ports = fields.list_of("ports", |item| {
            let port = read_port(&item)?;
            let is_new = (numbers.insert(port.port), sections.insert(port.section()));
            if is_new != (true, true) {
                item.refuse("has the number or the name of another port");
            }
            Some(port)
        });
        let identities = fields.list_of("identities", |item| read_identity(&item));
        let state = fields.optional("state").and_then(|item| {
            item.one_of(&[("Available", State::Available), ("Unavailable", State::Unavailable)])
        });
        Some(Self { selector, ports, identities, state: state.unwrap_or_default() })
    }
}

fn read_selector(item: &Item<'_>) -> Option<Selector> {
    item.object(|fields| {
        let one = fields.optional("dataplaneRef");
        let labels = fields.optional("dataplaneLabels");
        if one.is_some() && labels.is_some() {
            fields.whole().refuse("must have one of dataplaneRef and dataplaneLabels, not both");
        }
        let one = one.and_then(|item| item.object(|fields| fields.required("name")?.parse()));
        let labels = labels.and_then(|item| item.match_labels());
        one.map(Selector::Dataplane).or(labels.map(Selector::Labels))
    })
}

fn read_port(item: &Item<'_>) -> Option<Port> {
    item.object(|fields| {
        let name = fields.optional("name").and_then(|item| item.parse());
        let port = fields.required("port").and_then(|item| item.port());
        let target = fields.optional("targetPort").and_then(|item| match item.tree().value {
            Value::Number(_) => item.port().map(SectionName::from),
            _ => item.parse(),
        });
        let protocol = fields.optional("appProtocol").and_then(|item| item.protocol());
        let port = port?;
        Some(Port {
            name,
            port,
            target: target.unwrap_or_else(|| port.into()),
            protocol: protocol.unwrap_or_default(),
        })
    })
}

fn read_identity(item: &Item<'_>) -> Option<SpiffeId> {
    item.object(|fields| {
        fields.required("type").and_then(|item| item.one_of(&[("SpiffeID", ())]));
        fields.required("value")?.parse()
    })
}

impl Generated for MeshService {
    fn to_json(&self) -> serde_json::Value {
        let ports: Vec<_> = self.ports.iter().map(port_to_json).collect();
        let mut spec = json!({ "ports": ports });
        match &self.selector {
            None => {}
            Some(Selector::Dataplane(name)) => spec["selector"] = json!({ "dataplaneRef": { "name": name } }),
            Some(Selector::Labels(labels)) => {
                spec["selector"] = json!({ "dataplaneLabels": { "matchLabels": labels } });
            }
        }
        if !self.identities.is_empty() {
            let ids = self.identities.iter().map(|id| json!({ "type": "SpiffeID", "value": id }));
            spec["identities"] = ids.collect();
        }
        if self.state == State::Available {
            spec["state"] = json!("Available");
        }
        spec
    }
}

fn port_to_json(port: &Port) -> serde_json::Value {
    let mut json = json!({ "port": port.port, "appProtocol": port.protocol });
    if let Some(name) = &port.name {
        json["name"] = json!(name);
    }
    if port.target != port.port.into() {
        // A number stays a number: in quotes it would be read as one all the same, but nobody writes it so.
        json["targetPort"] = port.target.as_str().parse::<u16>().map_or_else(|_| json!(port.target), |n| json!(n));
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, right, wrong};

    #[test]
    fn ports_have_a_section_and_a_target() {
        let spec: MeshService = right(
            "selector: {dataplaneLabels: {matchLabels: {app: web}}}
ports:
  - {port: 80, targetPort: http, name: web, appProtocol: HTTP}
  - {port: 81, targetPort: 8081}
  - {port: 82}",
        );
        let ports: Vec<(String, String, Protocol)> = spec
            .ports
            .iter()
            .map(|port| (port.section().to_string(), port.target.to_string(), port.protocol))
            .collect();
        let port = |section: &str, target: &str, protocol| (section.to_owned(), target.to_owned(), protocol);
        let want = [port("web", "http", Protocol::Http), port("81", "8081", Protocol::Tcp), port("82", "82", Protocol::Tcp)];
        assert_eq!(ports, want);
        assert_generates(spec);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("selector: {dataplaneRef: {name: a}, dataplaneLabels: {matchLabels: {}}}", vec!["spec.selector"]),
            ("selector: {dataplaneRef: {}}", vec!["spec.selector.dataplaneRef.name"]),
            ("selector: {dataplaneTags: {a: b}}", vec!["spec.selector.dataplaneTags"]),
            ("ports: [{port: 80}, {port: 80, name: a}]", vec!["spec.ports[1]"]),
            ("ports: [{port: 80, name: a}, {port: 81, name: a}]", vec!["spec.ports[1]"]),
            ("ports: [{name: '80'}]", vec!["spec.ports[0].port", "spec.ports[0].name"]),
            ("ports: [{port: 1, appProtocol: kafka, targetPort: 0}]", vec![
                "spec.ports[0].appProtocol",
                "spec.ports[0].targetPort",
            ]),
            ("identities: [{type: ServiceTag, value: web}]", vec!["spec.identities[0].type", "spec.identities[0].value"]),
            ("state: Perhaps", vec!["spec.state"]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshService>(spec), want, "{spec}");
        }
        assert_eq!(wrong::<MeshService>("selector: {}\nports: []"), [""; 0]);
    }

    #[test]
    fn services_are_made_by_zones() {
        assert_generates(MeshService::default());
        assert_generates(MeshService {
            selector: Some(Selector::Dataplane("web-1".parse().unwrap())),
            ports: vec![],
            identities: vec!["spiffe://td/workload/web".parse().unwrap()],
            state: State::Available,
        });
    }
}
