//! Values that several kinds have: addresses, ports, labels, data sources.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::document::{Fields, Item};
use crate::duration::parse_duration;
use crate::labels::Labels;
use crate::name::ResourceName;

/// Where something is reached: an IP address, but not the unspecified one, or a DNS name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    Ip(IpAddr),
    Name(ResourceName),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidHost {
    #[error("'{0}' stands for every address of a machine: use one at which others reach it")]
    Unspecified(IpAddr),
    #[error("'{0}' is neither an IP address nor a DNS name")]
    Neither(String),
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return if ip.is_unspecified() { Err(InvalidHost::Unspecified(ip)) } else { Ok(Self::Ip(ip)) };
        }
        let neither = || InvalidHost::Neither(text.into());
        // `10.0.0.300` is a mistyped address, not a name.
        let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if numeric { Err(neither()) } else { text.parse().map(Self::Name).map_err(|_| neither()) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Item<'_> {
    pub(crate) fn port(&self) -> Option<u16> {
        self.integer(1, u16::MAX.into()).and_then(|port| u16::try_from(port).ok())
    }

    /// An IP address that one machine can be reached at.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.text()?.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => self.fail(InvalidHost::Unspecified(ip)),
            Ok(ip) => Some(ip),
            Err(_) => self.fail("must be an IP address"),
        }
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        parse_duration(self.text()?).map_err(|error| self.refuse(error)).ok()
    }

    /// Labels to choose by.
    pub(crate) fn labels(&self) -> Option<Labels> {
        let mut labels = Labels::default();
        for (key, item) in self.entries()? {
            let parsed = key.parse().map_err(|error| item.refuse(error)).ok();
            if let (Some(key), Some(value)) = (parsed, item.parse())
                && labels.insert(key, value).is_some()
            {
                item.refuse("stands here a second time: kuma.io/ and tombolo.io/ name the same label");
            }
        }
        Some(labels)
    }

    /// `{matchLabels: {...}}`
    pub(crate) fn match_labels(&self) -> Option<Labels> {
        self.object(|fields| fields.required("matchLabels")?.labels())
    }

    /// Checks a data source, `{type: Secret, secretRef}` or `{type: InsecureInline, insecureInline}`.
    pub(crate) fn data_source(&self) -> Option<()> {
        #[derive(Clone)]
        enum Source {
            Secret,
            Inline,
        }
        self.object(|fields| {
            let source = fields.required("type").and_then(|item| {
                item.one_of(&[("Secret", Source::Secret), ("InsecureInline", Source::Inline)])
            });
            match source? {
                Source::Secret => fields.required("secretRef")?.object(|fields| {
                    fields.required("kind").and_then(|item| item.one_of(&[("Secret", ())]));
                    fields.required("name").and_then(|item| item.parse::<ResourceName>());
                    Some(())
                }),
                Source::Inline => fields.required("insecureInline")?.object(|fields| {
                    fields.required("value").and_then(|item| item.non_empty_text());
                    Some(())
                }),
            }
        })
    }
}

impl<'a> Fields<'a> {
    /// An optional field in which an empty object counts as left out.
    pub(crate) fn filled(&mut self, name: &'static str) -> Option<Item<'a>> {
        use crate::document::Value;
        self.optional(name)
            .filter(|item| !matches!(&item.tree().value, Value::Object(entries) if entries.is_empty()))
    }

    /// A list of which every member is read; empty if the field is left out.
    pub(crate) fn list_of<T>(
        &mut self,
        name: &'static str,
        read: impl FnMut(Item<'a>) -> Option<T>,
    ) -> Vec<T> {
        self.optional(name).and_then(|item| item.list_of(read)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for good in ["192.168.0.1", "2001:db8::1", "example.com", "a1b2c3.elb.us-east-1.amazonaws.com"] {
            assert_eq!(good.parse::<Host>().unwrap().to_string(), good);
        }
        for bad in ["", "0.0.0.0", "::", "..>_<..", "10.0.0.300", "1.2.3", "INVALID", "a b", "[::1]", "a:80"]
        {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }
}
