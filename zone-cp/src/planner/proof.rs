//! Which proxies of the zone enforce a version: what `wait` and the overview rest on.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::kinds::Dataplane;
use model::{MeshName, Version, World};

use super::{Client, Plan, Planner, Presence, ProxyId, State};

/// Where one proxy stands with a version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// It said that it enforces it, or what it said before already equals that.
    Current,
    Late,
    /// It has no session, and may run anything that it once had.
    Unknown,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    Slow,
    Refused,
    Disconnected,
    Joining,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Late {
    pub proxy: ProxyId,
    pub standing: Standing,
    pub reason: Reason,
    pub detail: String,
}

/// Where the zone stands with a version.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Proof {
    /// Whether the zone itself has it, and compiled with it.
    pub known: bool,
    pub current: u64,
    pub late: Vec<Late>,
}

impl Proof {
    pub fn is_applied(&self) -> bool {
        self.known && self.late.is_empty()
    }

    /// Some proxy keeps an older version of something, and will until it changes again.
    pub fn is_refused(&self) -> bool {
        self.known && self.late.iter().any(|late| late.reason == Reason::Refused)
    }

    pub fn count(&self, standing: Standing) -> u64 {
        match standing {
            Standing::Current => self.current,
            _ => self.late.iter().filter(|late| late.standing == standing).count() as u64,
        }
    }
}

/// What is known of one proxy's session.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub is_connected: bool,
    /// It runs the newest that the zone compiled for it.
    pub is_current: bool,
    pub plan: Plan,
    pub confirmed: Option<World>,
    pub refused: BTreeMap<String, String>,
    pub signals: BTreeMap<String, Bytes>,
}

impl Planner {
    /// None for a proxy that never had a session here.
    pub fn report(&self, proxy: &ProxyId) -> Option<Report> {
        let state = self.clients.get(&Client::Proxy(proxy.clone()))?;
        Some(Report {
            is_connected: state.presence == Presence::Connected,
            is_current: self.runs_newest(state),
            plan: state.plan.clone(),
            confirmed: state.confirmed.clone(),
            refused: state.refused.clone(),
            signals: state.signals.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
        })
    }

    fn runs_newest(&self, state: &State) -> bool {
        state.presence == Presence::Connected
            && state.confirmed.as_ref().is_some_and(|world| world.covers_all(&self.world))
    }

    /// Of every proxy that has a Dataplane document or a session. Whoever drained is gone.
    pub fn prove(&self, version: &Version) -> Proof {
        let known = self.world.covers(version);
        self.survey(known, |state| state.confirmed.as_ref().is_some_and(|world| world.covers(version)))
    }

    /// Who runs the newest that this zone knows of.
    pub fn overview(&self) -> Proof {
        self.survey(true, |state| self.runs_newest(state))
    }

    fn survey(&self, known: bool, runs: impl Fn(&State) -> bool) -> Proof {
        let mut proof = Proof { known, ..Proof::default() };
        for (held, _) in self.view.all::<Dataplane>() {
            let Some(mesh) = &held.key.mesh else { continue };
            let proxy = ProxyId { mesh: MeshName::clone(mesh), name: held.key.name.clone() };
            let client = Client::Proxy(proxy);
            let (standing, reason, detail) = match self.clients.get(&client) {
                Some(state) => match state.presence {
                    Presence::Drained => continue,
                    Presence::Connected if known && runs(state) => {
                        (Standing::Current, Reason::Slow, String::new())
                    }
                    Presence::Connected => match state.refused.iter().next() {
                        Some((part, why)) => (Standing::Late, Reason::Refused, format!("{part}: {why}")),
                        None if state.confirmed.is_none() => (Standing::Late, Reason::Joining, String::new()),
                        None => (Standing::Late, Reason::Slow, String::new()),
                    },
                    Presence::Missing | Presence::Lost => {
                        (Standing::Unknown, Reason::Disconnected, String::new())
                    }
                },
                None => (Standing::Unknown, Reason::Disconnected, String::new()),
            };
            let Client::Proxy(proxy) = client else { continue };
            match standing {
                Standing::Current => proof.current += 1,
                _ => proof.late.push(Late { proxy, standing, reason, detail }),
            }
        }
        proof
    }
}
