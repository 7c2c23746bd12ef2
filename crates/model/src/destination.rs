//! What a proxy can send to: one port of one service.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{MeshName, Name, ZoneName};
use crate::text::checked_text;

/// What a listener or a service port speaks, as declared; never guessed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Http,
    Http2,
    Grpc,
}

impl Protocol {
    /// Whether requests are seen one by one.
    pub fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }
}

/// The name of a port, or its number where it has none: what `sectionName` selects.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SectionName(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a section name: use the port's name (a-z, 0-9, '-', starting with a letter) or number")]
pub struct InvalidSectionName(String);

checked_text!(SectionName, InvalidSectionName);

impl FromStr for SectionName {
    type Err = InvalidSectionName;

    fn from_str(text: &str) -> Result<Self, InvalidSectionName> {
        let number = text.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == text);
        let valid = number || text.parse::<Name>().is_ok();
        if valid { Ok(Self(text.into())) } else { Err(InvalidSectionName(text.into())) }
    }
}

impl From<u16> for SectionName {
    /// The section of a port without a name.
    fn from(port: u16) -> Self {
        Self(port.to_string().into())
    }
}

impl From<Name> for SectionName {
    fn from(name: Name) -> Self {
        Self(name.as_str().into())
    }
}

/// The three kinds of service.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub enum ServiceKind {
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
}

impl ServiceKind {
    fn short(self) -> &'static str {
        match self {
            Self::MeshService => "ms",
            Self::MeshExternalService => "mes",
            Self::MeshMultiZoneService => "mmzs",
        }
    }
}

/// One port of one service. A service without a zone is written on the global.
///
/// Text form: `ms_default_west__catalog_http`, that is kind, mesh, zone, namespace, service, section; none
/// of the parts can contain an underscore. It stands in part names, metrics and logs.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DestinationId {
    pub kind: ServiceKind,
    pub mesh: MeshName,
    pub zone: Option<ZoneName>,
    pub namespace: Option<Name>,
    pub service: Name,
    pub section: SectionName,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a destination: it looks like ms_default_west__catalog_http")]
pub struct InvalidDestinationId(String);

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.as_deref().unwrap_or_default();
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let Self { mesh, service, section, .. } = self;
        write!(f, "{}_{mesh}_{zone}_{namespace}_{service}_{section}", self.kind.short())
    }
}

impl fmt::Debug for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DestinationId {
    type Err = InvalidDestinationId;

    fn from_str(text: &str) -> Result<Self, InvalidDestinationId> {
        let parse = || {
            let mut parts = text.split('_');
            let mut next = || parts.next();
            let (kind, mesh, zone, namespace, service, section) =
                (next()?, next()?, next()?, next()?, next()?, next()?);
            let kinds = [
                ServiceKind::MeshService,
                ServiceKind::MeshExternalService,
                ServiceKind::MeshMultiZoneService,
            ];
            let id = Self {
                kind: kinds.into_iter().find(|known| known.short() == kind)?,
                mesh: mesh.parse().ok()?,
                zone: if zone.is_empty() { None } else { Some(zone.parse().ok()?) },
                namespace: if namespace.is_empty() { None } else { Some(namespace.parse().ok()?) },
                service: service.parse().ok()?,
                section: section.parse().ok()?,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| InvalidDestinationId(text.into()))
    }
}

impl TryFrom<String> for DestinationId {
    type Error = InvalidDestinationId;

    fn try_from(text: String) -> Result<Self, InvalidDestinationId> {
        text.parse()
    }
}

impl From<DestinationId> for String {
    fn from(id: DestinationId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_round_trip_as_text() {
        for text in [
            "ms_default_west__catalog_http",
            "ms_default_west_shop_catalog_8080",
            "mmzs_default___catalog_80",
        ] {
            assert_eq!(text.parse::<DestinationId>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "ms",
            "ms_default_west__catalog",
            "xx_default_west__catalog_80",
            "ms_default_west__catalog_0",
        ] {
            assert!(bad.parse::<DestinationId>().is_err(), "{bad}");
        }
    }
}
