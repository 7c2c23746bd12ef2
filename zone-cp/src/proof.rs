//! The proof of a version as the API tells it.

use api::shapes::{LateProxy, LateReason, LateState, ProxyCounts, RefusedDocument, ZoneProgress, ZoneState};
use control::{Reports, degraded};
use model::{Version, ZoneName};
use store::Store;
use tracing::warn;

use crate::planner::{Proof, Reason, Standing};
use crate::upstream::LANE;

/// Why this zone does not enforce a version, as far as it refused documents of the global.
pub async fn refusals(reports: &Reports, version: &Version, store: &dyn Store) -> Vec<RefusedDocument> {
    let refused = reports.list(&[LANE]);
    degraded::concerning(refused.clone(), version, store).await.unwrap_or_else(|error| {
        warn!(%error, "what a revision is about cannot be read");
        refused
    })
}

pub fn progress(zone: &ZoneName, proof: &Proof, refusals: &[RefusedDocument]) -> ZoneProgress {
    let state = match () {
        () if !refusals.is_empty() => ZoneState::Refused,
        () if proof.is_applied() => ZoneState::Applied,
        () if proof.is_diverged() => ZoneState::Diverged,
        () if proof.is_refused() => ZoneState::Refused,
        () => ZoneState::Pending,
    };
    ZoneProgress { name: zone.clone(), state, proxies: counts(proof) }
}

pub fn counts(proof: &Proof) -> ProxyCounts {
    ProxyCounts {
        current: proof.current,
        late: proof.count(Standing::Late),
        unknown: proof.count(Standing::Unknown),
    }
}

pub fn late<'a>(zone: &'a ZoneName, proof: &'a Proof) -> impl Iterator<Item = LateProxy> + 'a {
    proof.late.iter().map(move |late| LateProxy {
        zone: zone.clone(),
        proxy: late.proxy.to_string(),
        state: match late.standing {
            Standing::Unknown => LateState::Unknown,
            _ => LateState::Late,
        },
        reason: match late.reason {
            Reason::Slow => LateReason::Slow,
            Reason::Refused | Reason::Diverged => LateReason::Refused,
            Reason::Disconnected => LateReason::Disconnected,
            Reason::Joining => LateReason::Joining,
            Reason::Revoked => LateReason::Revoked,
        },
        detail: late.detail.clone(),
    })
}
