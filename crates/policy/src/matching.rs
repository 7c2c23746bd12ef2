//! Decides whose traffic an entry of `matches` is about.

use model::kinds::matching::{Match, Source, SpiffeIdMatch};

use crate::access::{ClientMatch, SourceMatch};

/// The clients that the conditions about them choose; none if there is no such condition.
pub fn clients(one: &Match) -> Option<ClientMatch> {
    let id = one.spiffe_id.as_ref().map(|id| match id {
        SpiffeIdMatch::Exact(id) => ClientMatch::Exactly(id.clone()),
        SpiffeIdMatch::Prefix(prefix) => ClientMatch::Below(prefix.clone()),
    });
    let source = one.source.as_ref().map(|source| ClientMatch::Source(source_match(source)));
    match (id, source) {
        (Some(id), Some(source)) => Some(ClientMatch::All(vec![id, source])),
        (only, None) | (None, only) => only,
    }
}

fn source_match(source: &Source) -> SourceMatch {
    SourceMatch {
        zones: source.zones.as_ref().map(|zones| zones.iter().cloned().collect()),
        namespace: source.namespace.clone(),
        service_account: source.service_account.clone(),
        workload: source.workload.clone(),
    }
}

/// How much a match narrows the traffic; the narrower is the greater. An exact id is narrower than a prefix, a
/// longer prefix than a shorter, and any of them than a workload wherever it runs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Narrowness {
    id: Option<IdNarrowness>,
    /// How many conditions there are about the source.
    source: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum IdNarrowness {
    /// By its length.
    Prefix(usize),
    Exact,
}

impl Narrowness {
    pub fn of(one: &Match) -> Self {
        let id = one.spiffe_id.as_ref().map(|id| match id {
            SpiffeIdMatch::Exact(_) => IdNarrowness::Exact,
            SpiffeIdMatch::Prefix(prefix) => IdNarrowness::Prefix(prefix.trim_end_matches('/').len()),
        });
        let source = one.source.as_ref().map(|source| {
            let Source { zones, namespace, service_account, workload } = source;
            let given = [zones.is_some(), namespace.is_some(), service_account.is_some(), workload.is_some()];
            given.into_iter().filter(|given| *given).count()
        });
        Self { id, source }
    }
}
