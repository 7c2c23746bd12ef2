//! MeshMultiZoneService: the services of several zones under one name.

use std::collections::BTreeSet;

use super::{Author, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::destination::{Protocol, SectionName};
use crate::document::{Fields, Item};
use crate::labels::Labels;
use crate::name::{Name, ZoneName};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshMultiZoneService {
    /// The MeshServices that carry all of these; at least one label.
    pub services: Labels,
    /// Only services of these zones; left out, of all.
    pub zones: Option<Vec<ZoneName>>,
    /// At least one.
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Port {
    pub name: Option<Name>,
    pub port: u16,
    pub protocol: Protocol,
}

impl Port {
    pub fn section(&self) -> SectionName {
        self.name.clone().map_or_else(|| self.port.into(), SectionName::from)
    }
}

impl MeshMultiZoneService {
    /// Whether it joins a service of that zone with these labels, as written and as computed.
    pub fn selects(&self, zone: &ZoneName, labels: &Labels) -> bool {
        self.zones.as_ref().is_none_or(|zones| zones.contains(zone)) && labels.cover(&self.services)
    }
}

impl ResourceSpec for MeshMultiZoneService {
    const KIND: Kind = Kind {
        name: "MeshMultiZoneService",
        plural: "meshmultizoneservices",
        short: "mzsvc",
        scope: Scope::Mesh,
        author: Author::Global,
        travels: Travels::DOWN,
        naming: Naming::Label,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mut selector = (None, None);
        match fields.optional("selector") {
            Some(item) => {
                item.object(|fields| {
                    selector = (read_labels(fields), read_zones(fields));
                    Some(())
                });
            }
            None => fields.refuse("selector.meshService.matchLabels", CHOOSE),
        }
        if !fields.has("ports") || fields.is_empty_list("ports") {
            fields.refuse("ports", "must have at least one port");
        }
        let (mut numbers, mut sections) = (BTreeSet::new(), BTreeSet::new());
        let ports = fields.list_of("ports", |item| {
            let port = read_port(&item)?;
            let is_new = (numbers.insert(port.port), sections.insert(port.section()));
            if is_new != (true, true) {
                item.refuse("has the number or the name of another port");
            }
            Some(port)
        });
        let (services, zones) = selector;
        Some(Self { services: services?, zones, ports })
    }
}

const CHOOSE: &str = "must choose services by at least one label";

fn read_labels(selector: &mut Fields<'_>) -> Option<Labels> {
    let Some(services) = selector.optional("meshService") else {
        selector.refuse("meshService.matchLabels", CHOOSE);
        return None;
    };
    services.object(|fields| match fields.filled("matchLabels") {
        Some(labels) => labels.labels(),
        None => {
            fields.refuse("matchLabels", CHOOSE);
            None
        }
    })
}

fn read_zones(selector: &mut Fields<'_>) -> Option<Vec<ZoneName>> {
    let item = selector.optional("zones")?;
    let zones = item.list_of(|item| item.parse())?;
    if zones.is_empty() { item.fail("must name at least one zone, or be left out for all") } else { Some(zones) }
}

fn read_port(item: &Item<'_>) -> Option<Port> {
    item.object(|fields| {
        let name = fields.optional("name").and_then(|item| item.parse());
        let port = fields.required("port").and_then(|item| item.port());
        let protocol = fields.optional("appProtocol").and_then(|item| item.protocol());
        Some(Port { name, port: port?, protocol: protocol.unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{right, wrong};

    #[test]
    fn it_joins_services_of_all_zones_or_of_some() {
        let labels = |list: &[(&str, &str)]| -> Labels {
            list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let (east, west) = ("east".parse().unwrap(), "west".parse().unwrap());
        let (catalog, cart) = (labels(&[("tombolo.io/display-name", "catalog")]), labels(&[("app", "cart")]));
        let ports = "ports: [{port: 80, name: http, appProtocol: HTTP}, {port: 81}]";
        let all: MeshMultiZoneService = right(&format!(
            "selector: {{meshService: {{matchLabels: {{kuma.io/display-name: catalog}}}}}}\n{ports}"
        ));
        assert!(all.selects(&east, &catalog) && all.selects(&west, &catalog) && !all.selects(&east, &cart));
        let sections: Vec<String> = all.ports.iter().map(|port| port.section().to_string()).collect();
        assert_eq!(sections, ["http", "81"]);
        let some: MeshMultiZoneService =
            right(&format!("selector: {{meshService: {{matchLabels: {{app: cart}}}}, zones: [west]}}\n{ports}"));
        assert!(some.selects(&west, &cart) && !some.selects(&east, &cart));
    }

    #[test]
    fn mistakes_are_named() {
        let all = "selector: {meshService: {matchLabels: {a: b}}}";
        let labels = "spec.selector.meshService.matchLabels";
        let ports = "ports: [{port: 1}]";
        let cases = [
            (String::new(), vec![labels, "spec.ports"]),
            (format!("selector: {{}}\n{ports}"), vec![labels]),
            (format!("selector: {{meshService: {{}}}}\n{ports}"), vec![labels]),
            (format!("selector: {{meshService: {{matchLabels: {{}}}}}}\n{ports}"), vec![labels]),
            (format!("selector: {{meshService: {{matchLabels: {{a: b}}}}, zones: []}}\n{ports}"), vec![
                "spec.selector.zones",
            ]),
            (format!("selector: {{meshService: {{matchLabels: {{a: b}}}}, zones: [Global]}}\n{ports}"), vec![
                "spec.selector.zones[0]",
            ]),
            (format!("{all}\nports: []"), vec!["spec.ports"]),
            (format!("{all}\nports: [{{port: 1, name: ''}}]"), vec!["spec.ports[0].name"]),
            (format!("{all}\nports: [{{port: 1, appProtocol: kafka}}]"), vec!["spec.ports[0].appProtocol"]),
            (format!("{all}\nports: [{{port: 1}}, {{port: 1, name: a}}]"), vec!["spec.ports[1]"]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshMultiZoneService>(&spec), want, "{spec}");
        }
    }
}
