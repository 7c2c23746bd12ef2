//! `matches` in the rules of a policy: whose traffic a rule is about.

use crate::document::Item;
use crate::name::{Name, ResourceName, WorkloadName, ZoneName};
use crate::spiffe::{SpiffeId, TrustDomain};

/// All that is given must hold, and something is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    pub spiffe_id: Option<SpiffeIdMatch>,
    pub sni: Option<ResourceName>,
    pub source: Option<Source>,
    /// A newer author set a condition that this program does not know, here or around it. Such a match
    /// may forbid but never allow.
    pub partial: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SpiffeIdMatch {
    Exact(SpiffeId),
    /// An id or a trust domain (`spiffe://td`), with or without a slash at its end; covers whole segments.
    Prefix(String),
}

/// Anyone of this mesh who is in these zones, and is what else is given.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// Left out: every zone.
    pub zones: Option<Vec<ZoneName>>,
    pub namespace: Option<Name>,
    pub service_account: Option<Name>,
    pub workload: Option<WorkloadName>,
}

pub(super) fn read_match(item: &Item<'_>) -> Option<Match> {
    let ignored = item.report().ignored();
    let found = item.object(|fields| {
        let given = [fields.filled("spiffeID"), fields.filled("sni"), fields.optional("source")];
        fields.unsupported("http", "matching by 'http' is not supported by this version");
        if given.iter().all(Option::is_none) && !fields.has("http") && !fields.has_unknown() {
            fields.whole().refuse("must have at least one of spiffeID, sni and source");
        }
        let [spiffe_id, sni, source] = given;
        Some(Match {
            spiffe_id: spiffe_id.and_then(|item| read_spiffe_id(&item)),
            sni: sni.and_then(|item| read_sni(&item)),
            source: source.and_then(|item| read_source(&item)),
            partial: fields.has("http"),
        })
    })?;
    Some(Match { partial: found.partial || item.report().ignored() > ignored, ..found })
}

fn read_spiffe_id(item: &Item<'_>) -> Option<SpiffeIdMatch> {
    let ignored = item.report().ignored();
    item.object(|fields| {
        let words = [("Exact", true), ("Prefix", false)];
        let exact = fields.required("type").and_then(|item| item.known_word(&words));
        if item.report().ignored() > ignored {
            // What a type of a newer author needs beside is not known here.
            return None;
        }
        let value = fields.required("value");
        if exact? {
            value?.parse().map(SpiffeIdMatch::Exact)
        } else {
            let value = value?;
            let text = value.text()?;
            match is_prefix(text) {
                true => Some(SpiffeIdMatch::Prefix(text.to_owned())),
                false => value.fail(
                    "must begin a SPIFFE id with whole segments, such as spiffe://default.east.mesh.local/ns/shop",
                ),
            }
        }
    })
}

fn is_prefix(text: &str) -> bool {
    let text = text.strip_suffix('/').unwrap_or(text);
    let domain = text.strip_prefix("spiffe://").is_some_and(|domain| domain.parse::<TrustDomain>().is_ok());
    domain || text.parse::<SpiffeId>().is_ok()
}

fn read_sni(item: &Item<'_>) -> Option<ResourceName> {
    item.object(|fields| {
        fields.required("type").and_then(|item| item.one_of(&[("Exact", ())]));
        fields.required("value")?.parse()
    })
}

fn read_source(item: &Item<'_>) -> Option<Source> {
    item.object(|fields| {
        let zones = fields.optional("zones").and_then(|item| {
            let zones = item.list_of(|item| item.parse())?;
            if zones.is_empty() {
                item.fail("must name at least one zone, or be left out for all")
            } else {
                Some(zones)
            }
        });
        Some(Source {
            zones,
            namespace: fields.optional("namespace").and_then(|item| item.parse()),
            service_account: fields.optional("serviceAccount").and_then(|item| item.parse()),
            workload: fields.optional("workload").and_then(|item| item.parse()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_begins_an_id_with_whole_segments() {
        for (value, want) in [
            ("spiffe://td", true),
            ("spiffe://td/", true),
            ("spiffe://td/ns/shop", true),
            ("spiffe://td/ns/shop/", true),
            ("spiffe://td/ns//shop", false),
            ("spiffe://td//", false),
            ("spiffe://TD/ns", false),
            ("spiffe://", false),
            ("td/ns", false),
            ("", false),
        ] {
            assert_eq!(is_prefix(value), want, "{value}");
        }
    }
}
