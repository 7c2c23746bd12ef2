//! The proof of a version as the API tells it.

use api::shapes::{LateProxy, LateReason, LateState, ProxyCounts, ZoneProgress, ZoneState};
use model::ZoneName;

use crate::planner::{Proof, Reason, Standing};

pub fn progress(zone: &ZoneName, proof: &Proof) -> ZoneProgress {
    let state = match () {
        () if proof.is_applied() => ZoneState::Applied,
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
            Reason::Refused => LateReason::Refused,
            Reason::Disconnected => LateReason::Disconnected,
            Reason::Joining => LateReason::Joining,
        },
        detail: late.detail.clone(),
    })
}
