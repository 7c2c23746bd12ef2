//! Dataplane: one proxy, its addresses and what it serves and uses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{Author, Host, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::destination::{Protocol, SectionName, ServiceKind};
use crate::document::{Fields, Item};
use crate::duration::parse_duration;
use crate::labels::Labels;
use crate::name::{Name, ResourceName};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dataplane {
    /// Where other proxies reach this one.
    pub address: Host,
    pub inbounds: Vec<Inbound>,
    pub outbounds: Vec<Outbound>,
    /// A gateway of someone else's stands beside this proxy; then there are no inbounds.
    pub is_delegated_gateway: bool,
    pub listeners: Vec<Listener>,
    pub transparent_proxying: Option<TransparentProxying>,
    pub admin_port: Option<u16>,
}

/// A port of the application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inbound {
    pub name: Option<Name>,
    /// Where the proxy listens.
    pub port: u16,
    /// Where the proxy listens, if not at the Dataplane's address.
    pub address: Option<IpAddr>,
    /// Where the application listens, if not at `port`.
    pub service_port: Option<u16>,
    /// Where the application listens, if not at 127.0.0.1.
    pub service_address: Option<IpAddr>,
    pub protocol: Protocol,
    pub state: State,
}

impl Inbound {
    /// What `sectionName` and ports of services call it.
    pub fn section(&self) -> SectionName {
        self.name.clone().map_or_else(|| self.port.into(), SectionName::from)
    }

    /// Where the application listens.
    pub fn service(&self) -> (IpAddr, u16) {
        (self.service_address.unwrap_or(LOOPBACK), self.service_port.unwrap_or(self.port))
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    #[default]
    Ready,
    NotReady,
    /// Not part of any service.
    Ignored,
}

/// A port on which the application finds a service, where nothing intercepts its traffic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outbound {
    /// 127.0.0.1 if not given.
    pub address: IpAddr,
    pub port: u16,
    pub backend: BackendRef,
}

/// A service, or those with some labels; the port may be left out only for a MeshExternalService,
/// which has one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendRef {
    pub kind: ServiceKind,
    pub service: ServiceRef,
    pub namespace: Option<Name>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServiceRef {
    /// In one's own zone.
    Name(ResourceName),
    /// Wherever it is, such as by `tombolo.io/display-name` and `tombolo.io/zone`.
    Labels(Labels),
}

/// A zone ingress or egress that this proxy is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    pub kind: ListenerKind,
    /// The Dataplane's if not given.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub name: Option<Name>,
    pub state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerKind {
    ZoneIngress,
    ZoneEgress,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransparentProxying {
    pub inbound_port: u16,
    pub outbound_port: u16,
    /// The services that the proxy may use; without it, all.
    pub reachable: Option<Vec<BackendRef>>,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const STATES: [(&str, State); 3] =
    [("Ready", State::Ready), ("NotReady", State::NotReady), ("Ignored", State::Ignored)];

const SERVICES: [(&str, ServiceKind); 3] = [
    ("MeshService", ServiceKind::MeshService),
    ("MeshExternalService", ServiceKind::MeshExternalService),
    ("MeshMultiZoneService", ServiceKind::MeshMultiZoneService),
];

impl Dataplane {
    pub fn inbound(&self, section: &SectionName) -> Option<&Inbound> {
        self.inbounds.iter().find(|inbound| inbound.section() == *section)
    }
}

impl ResourceSpec for Dataplane {
    const KIND: Kind = Kind {
        name: "Dataplane",
        plural: "dataplanes",
        short: "dp",
        scope: Scope::Mesh,
        author: Author::Zone,
        travels: Travels::NOWHERE,
        naming: Naming::Subdomain,
        root: Root::Top,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.required("networking")?.object(read_networking)
    }
}

fn read_networking(fields: &mut Fields<'_>) -> Option<Dataplane> {
    let address: Option<Host> = fields.required("address").and_then(|item| item.parse());
    let own_ip = match &address {
        Some(Host::Ip(ip)) => Some(*ip),
        _ => None,
    };
    // The sockets of this proxy and the names of its sections, to find two that are the same.
    let mut taken = Taken::default();

    let is_delegated_gateway = fields.optional("gateway").is_some_and(|item| {
        item.object(|fields| {
            fields.optional("type").and_then(|item| item.one_of(&[("DELEGATED", ())]));
            Some(())
        });
        true
    });
    if is_delegated_gateway {
        for name in ["inbound", "listeners"] {
            if fields.has(name) && !fields.is_empty_list(name) {
                fields.refuse(name, "must be left out beside a gateway");
            }
        }
    }
    let inbounds = fields.list_of("inbound", |item| read_inbound(&item, own_ip, &mut taken));
    let outbounds = fields.list_of("outbound", |item| read_outbound(&item, &mut taken));
    let listeners = fields.list_of("listeners", |item| read_listener(&item, own_ip, &mut taken));
    let transparent_proxying =
        fields.optional("transparentProxying").and_then(|item| read_transparent_proxying(&item));
    let admin_port = fields.optional("admin").and_then(|item| {
        item.object(|fields| {
            let item = fields.optional("port")?;
            let port = item.port()?;
            // The administration listens on the loopback address alone.
            if taken.sockets.iter().any(|(ip, taken)| *taken == port && ip.is_some_and(|ip| ip.is_loopback())) {
                item.refuse("is another port of this proxy");
            }
            Some(port)
        })
    });
    Some(Dataplane {
        address: address?,
        inbounds,
        outbounds,
        is_delegated_gateway,
        listeners,
        transparent_proxying,
        admin_port,
    })
}

#[derive(Default)]
struct Taken {
    /// An address that is a name is none.
    sockets: BTreeSet<(Option<IpAddr>, u16)>,
    sections: BTreeSet<SectionName>,
}

impl Taken {
    fn socket(&mut self, item: &Item<'_>, ip: Option<IpAddr>, port: u16) {
        if !self.sockets.insert((ip, port)) {
            item.refuse("has the address and port of another listener of this proxy");
        }
    }

    fn section(&mut self, item: Item<'_>, section: SectionName) {
        if !self.sections.insert(section) {
            item.refuse("is the name of another listener of this proxy");
        }
    }
}

fn read_inbound(item: &Item<'_>, own_ip: Option<IpAddr>, taken: &mut Taken) -> Option<Inbound> {
    let whole = item.clone();
    item.object(|fields| {
        let port = fields.required("port").and_then(|item| item.port());
        let address = fields.optional("address").and_then(|item| item.ip());
        let service_port = fields.optional("servicePort").and_then(|item| item.port());
        let service_address_item = fields.optional("serviceAddress");
        let service_address = service_address_item.as_ref().and_then(|item| item.ip());
        let name_item = fields.optional("name");
        let name: Option<Name> = name_item.as_ref().and_then(|item| item.parse());
        let protocol = fields.optional("protocol").and_then(|item| item.protocol());
        let state = fields.optional("state").and_then(|item| item.one_of(&STATES));
        fields.optional("serviceProbe").and_then(|item| check_service_probe(&item));

        let port = port?;
        let inbound = Inbound {
            name,
            port,
            address,
            service_port,
            service_address,
            protocol: protocol.unwrap_or_default(),
            state: state.unwrap_or_default(),
        };
        let listens = address.or(own_ip);
        if Some(inbound.service().0) == listens && inbound.service().1 == port {
            let reason = "is where the proxy itself listens: the application must listen elsewhere";
            match (&service_address_item, service_port) {
                (Some(item), _) => item.refuse(reason),
                (None, Some(_)) => fields.refuse("servicePort", reason),
                (None, None) => fields.refuse("port", reason),
            }
        }
        taken.socket(&whole, listens, port);
        taken.section(name_item.unwrap_or(whole), inbound.section());
        Some(inbound)
    })
}

fn check_service_probe(item: &Item<'_>) -> Option<()> {
    item.object(|fields| {
        for name in ["interval", "timeout"] {
            if let Some(item) = fields.optional(name)
                && let Some(text) = item.text()
                && !parse_duration(text).is_ok_and(|duration| !duration.is_zero())
            {
                item.refuse("must be a duration greater than zero, such as 10s");
            }
        }
        for name in ["unhealthyThreshold", "healthyThreshold"] {
            fields.optional(name).and_then(|item| item.integer(1, u32::MAX));
        }
        fields.optional("tcp").and_then(|item| item.object(|_| Some(())))
    })
}

fn read_outbound(item: &Item<'_>, taken: &mut Taken) -> Option<Outbound> {
    let whole = item.clone();
    item.object(|fields| {
        let address = fields.optional("address").and_then(|item| item.ip()).unwrap_or(LOOPBACK);
        let port = fields.required("port").and_then(|item| item.port());
        let backend = fields.required("backendRef").and_then(|item| read_backend_ref(&item, true));
        let port = port?;
        taken.socket(&whole, Some(address), port);
        Some(Outbound { address, port, backend: backend? })
    })
}

fn read_backend_ref(item: &Item<'_>, needs_port: bool) -> Option<BackendRef> {
    item.object(|fields| {
        let kind = fields.required("kind").and_then(|item| item.one_of(&SERVICES));
        let namespace = fields.optional("namespace").and_then(|item| item.parse());
        let name = fields.optional("name");
        let labels = fields.filled("labels");
        match (&name, &labels) {
            (Some(_), Some(labels)) => labels.refuse("must be left out beside a name"),
            (None, None) => fields.refuse("name", "is missing: a service is named, or chosen by labels"),
            _ => {}
        }
        let service = name
            .and_then(|item| item.parse())
            .map(ServiceRef::Name)
            .or(labels.and_then(|item| item.labels()).map(ServiceRef::Labels));
        let port = match kind {
            Some(ServiceKind::MeshService | ServiceKind::MeshMultiZoneService) if needs_port => {
                fields.required("port")
            }
            _ => fields.optional("port"),
        };
        let port = port.and_then(|item| item.port());
        Some(BackendRef { kind: kind?, service: service?, namespace, port })
    })
}

fn read_listener(item: &Item<'_>, own_ip: Option<IpAddr>, taken: &mut Taken) -> Option<Listener> {
    let whole = item.clone();
    item.object(|fields| {
        let kinds = [("ZoneIngress", ListenerKind::ZoneIngress), ("ZoneEgress", ListenerKind::ZoneEgress)];
        let kind = fields.required("type").and_then(|item| item.one_of(&kinds));
        let address = fields.optional("address").and_then(|item| item.ip());
        let port = fields.required("port").and_then(|item| item.port());
        let name_item = fields.optional("name");
        let name: Option<Name> = name_item.as_ref().and_then(|item| item.parse());
        let state = fields.optional("state").and_then(|item| item.one_of(&STATES));
        let port = port?;
        taken.socket(&whole, address.or(own_ip), port);
        let section = name.clone().map_or_else(|| port.into(), SectionName::from);
        // Without a name the port is the section; two of the same port are told apart by their address.
        if let Some(item) = name_item {
            taken.section(item, section);
        }
        Some(Listener { kind: kind?, address, port, name, state: state.unwrap_or_default() })
    })
}

fn read_transparent_proxying(item: &Item<'_>) -> Option<TransparentProxying> {
    item.object(|fields| {
        let inbound = fields.optional("redirectPortInbound").and_then(|item| item.port());
        let outbound = fields.optional("redirectPortOutbound").and_then(|item| item.port());
        fields.list_of("directAccessServices", |item| item.non_empty_text().map(str::to_owned));
        fields
            .optional("ipFamilyMode")
            .and_then(|item| item.one_of(&[("DualStack", ()), ("IPv4", ()), ("IPv6", ())]));
        let reachable = fields.optional("reachableBackends").and_then(|item| {
            item.object(|fields| Some(fields.list_of("refs", |item| read_backend_ref(&item, false))))
        });
        Some(TransparentProxying {
            inbound_port: inbound.unwrap_or(15006),
            outbound_port: outbound.unwrap_or(15001),
            reachable,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{right, wrong};

    fn networking(text: &str) -> String {
        format!("networking:\n  address: 10.0.0.1\n  {}", text.replace('\n', "\n  "))
    }

    #[test]
    fn a_proxy_says_where_it_listens_and_where_its_application_does() {
        let spec: Dataplane = right(&networking(
            "inbound:
  - {port: 8080, name: http, protocol: HTTP}
  - {port: 9090, servicePort: 7070, serviceAddress: 10.0.0.1, address: 10.0.0.2, state: NotReady}
outbound:
  - {port: 3001, backendRef: {kind: MeshService, name: redis, port: 6379}}
  - {port: 3001, address: 127.0.0.2, backendRef: {kind: MeshService, labels: {kuma.io/zone: west}, port: 1}}
  - {port: 3002, backendRef: {kind: MeshExternalService, name: mail}}",
        ));
        assert_eq!(spec.address.to_string(), "10.0.0.1");
        let http = spec.inbound(&"http".parse().unwrap()).unwrap();
        assert_eq!((http.service(), http.protocol), ((LOOPBACK, 8080), Protocol::Http));
        let other = spec.inbound(&9090.into()).unwrap();
        assert_eq!((other.service(), other.state), (("10.0.0.1".parse().unwrap(), 7070), State::NotReady));
        let [redis, west, mail] = &spec.outbounds[..] else { panic!("{spec:?}") };
        assert_eq!((redis.address, redis.backend.port), (LOOPBACK, Some(6379)));
        assert_eq!(redis.backend.service, ServiceRef::Name("redis".parse().unwrap()));
        let ServiceRef::Labels(labels) = &west.backend.service else { panic!("{west:?}") };
        assert_eq!(labels.get("tombolo.io/zone"), Some("west"));
        assert_eq!((mail.backend.kind, mail.backend.port), (ServiceKind::MeshExternalService, None));
    }

    #[test]
    fn a_zone_proxy_and_a_gateway_are_dataplanes_too() {
        let ingress: Dataplane = right(&networking("listeners: [{type: ZoneIngress, port: 10001}]"));
        assert_eq!((ingress.listeners[0].kind, ingress.listeners[0].port), (ListenerKind::ZoneIngress, 10001));
        let gateway: Dataplane = right(&networking("gateway: {type: DELEGATED}"));
        assert!(gateway.is_delegated_gateway);
        let intercepted: Dataplane = right(&networking("transparentProxying: {reachableBackends: {}}"));
        let proxying = intercepted.transparent_proxying.unwrap();
        assert_eq!((proxying.inbound_port, proxying.outbound_port, proxying.reachable), (15006, 15001, Some(vec![])));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("inbound: [{}]", vec!["inbound[0].port"]),
            ("inbound: [{port: 1, serviceAddress: 10.0.0.1}]", vec!["inbound[0].serviceAddress"]),
            ("inbound: [{port: 1, address: 127.0.0.1, servicePort: 1}]", vec!["inbound[0].servicePort"]),
            ("inbound: [{port: 1, address: 127.0.0.1}]", vec!["inbound[0].port"]),
            ("inbound: [{port: 1, protocol: udp, state: Asleep, name: 1}]", vec![
                "inbound[0].protocol",
                "inbound[0].state",
                "inbound[0].name",
            ]),
            ("inbound: [{port: 1, name: a}, {port: 2, name: a}]", vec!["inbound[1].name"]),
            ("inbound: [{port: 1, name: a}, {port: 1, name: b}]", vec!["inbound[1]"]),
            ("inbound: [{port: 1, tags: {kuma.io/service: a}}]", vec!["inbound[0].tags"]),
            ("inbound: [{port: 1, serviceProbe: {interval: 0s, healthyThreshold: 0}}]", vec![
                "inbound[0].serviceProbe.interval",
                "inbound[0].serviceProbe.healthyThreshold",
            ]),
            ("outbound: [{port: 1}]", vec!["outbound[0].backendRef"]),
            ("outbound: [{port: 1, backendRef: {kind: MeshService, name: a}}]", vec!["outbound[0].backendRef.port"]),
            ("outbound: [{port: 1, backendRef: {kind: MeshGateway, name: a}}]", vec!["outbound[0].backendRef.kind"]),
            ("gateway: {type: BUILTIN}\ninbound: [{port: 1}]\nlisteners: [{type: ZoneEgress, port: 2}]", vec![
                "gateway.type",
                "inbound",
                "listeners",
            ]),
            ("inbound: [{port: 1, name: a}]\nlisteners: [{type: ZoneIngress, port: 2, name: a}]", vec![
                "listeners[0].name",
            ]),
            ("inbound: [{port: 1, address: 127.0.0.1, servicePort: 2}]\nadmin: {port: 1}", vec!["admin.port"]),
            ("transparentProxying: {ipFamilyMode: IPv5, redirectPortInbound: 0}", vec![
                "transparentProxying.ipFamilyMode",
                "transparentProxying.redirectPortInbound",
            ]),
        ];
        for (text, want) in cases {
            let want: Vec<String> = want.into_iter().map(|field| format!("networking.{field}")).collect();
            assert_eq!(wrong::<Dataplane>(&networking(text)), want, "{text}");
        }
        assert_eq!(wrong::<Dataplane>(""), ["networking"]);
        assert_eq!(wrong::<Dataplane>("networking: {address: '::'}"), ["networking.address"]);
    }
}
