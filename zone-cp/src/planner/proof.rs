//! Which proxies of the zone enforce a version: what `wait` and the overview rest on.

use std::collections::BTreeMap;
use std::time::SystemTime;

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
    /// It has no session, or is not heard in it, and may run anything that it once had.
    Unknown,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    Slow,
    Refused,
    Disconnected,
    Joining,
    Diverged,
    /// The token by which it joined counts no more, and its certificate does.
    Revoked,
}

/// Why a proxy takes nothing new for now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Keeps {
    /// It was told another history of this zone, and says so.
    Diverged(String),
    /// It was told this much, all of it more than this zone knows now: nobody leads it back.
    Ahead(World),
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

    /// Some proxy takes nothing of this zone before somebody accepts its history.
    pub fn is_diverged(&self) -> bool {
        self.late.iter().any(|late| late.reason == Reason::Diverged)
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

const SILENT: &str = "its session is open, and nothing is heard in it";
const REVOKED: &str = "its token is revoked, and others believe its certificate until that ends: what it runs counts \
                       until then, or until its Dataplane is deleted";

impl Planner {
    /// None for a proxy that never had a session here.
    pub fn report(&self, proxy: &ProxyId) -> Option<Report> {
        let state = self.clients.get(&Client::Proxy(proxy.clone()))?;
        Some(Report {
            is_connected: state.presence == Presence::Connected,
            is_current: self.runs_newest(state),
            plan: state.plan.clone(),
            confirmed: match state.runs_newest() {
                true => Some(self.world.clone()),
                false => state.confirmed.as_ref().map(|(world, _)| world.clone()),
            },
            refused: state.refused.clone(),
            signals: self.told_to(&Client::Proxy(proxy.clone()), state.session),
        })
    }

    fn runs_newest(&self, state: &State) -> bool {
        state.presence == Presence::Connected && state.runs_newest()
    }

    /// Of every proxy that has a Dataplane document. Whoever drained is gone, and so is, some minutes after its
    /// certificate ended, whoever was never heard of again.
    pub fn prove(&self, version: &Version, now: SystemTime) -> Proof {
        let known = self.world.covers(version);
        self.survey(known, now, |state| state.runs_newest() || state.confirms(|world| world.covers(version)))
    }

    /// Who runs the newest that this zone knows of.
    pub fn overview(&self, now: SystemTime) -> Proof {
        self.survey(true, now, |state| self.runs_newest(state))
    }

    fn survey(&self, known: bool, now: SystemTime, runs: impl Fn(&State) -> bool) -> Proof {
        let mut proof = Proof { known, ..Proof::default() };
        for (held, _) in self.view.all::<Dataplane>() {
            let Some(mesh) = &held.key.mesh else { continue };
            let proxy = ProxyId { mesh: MeshName::clone(mesh), name: held.key.name.clone() };
            let state = self.clients.get(&Client::Proxy(proxy.clone()));
            let silent = state.is_some_and(|state| state.presence == Presence::Silent);
            match state.filter(|state| state.presence == Presence::Connected) {
                Some(state) if known && runs(state) => proof.current += 1,
                Some(state) => {
                    let (reason, detail) = state.lateness();
                    proof.late.push(Late { proxy, standing: Standing::Late, reason, detail });
                }
                None if self.may_still_run(&proxy, state, now) => {
                    let standing = Standing::Unknown;
                    let (reason, detail) = match () {
                        () if self.revoked.contains(&proxy) => (Reason::Revoked, REVOKED),
                        () if silent => (Reason::Disconnected, SILENT),
                        () => (Reason::Disconnected, ""),
                    };
                    proof.late.push(Late { proxy, standing, reason, detail: detail.to_owned() });
                }
                None => {}
            }
        }
        proof
    }

    /// Whether a proxy without a session may act on what it was once told.
    fn may_still_run(&self, proxy: &ProxyId, state: Option<&State>, now: SystemTime) -> bool {
        let drained = state.is_some_and(|state| state.presence == Presence::Drained);
        !drained && self.lives.get(proxy).is_some_and(|life| life.counts(now))
    }
}

impl State {
    /// Whether it said so of what it wants now. Who wants nothing says nothing.
    pub(super) fn confirms(&self, world: impl Fn(&World) -> bool) -> bool {
        let confirmed = self.confirmed.as_ref().filter(|_| !self.plan.wanted.is_empty());
        let of_now = confirmed.filter(|(_, generation)| *generation == self.plan.generation);
        of_now.is_some_and(|(confirmed, _)| world(confirmed))
    }

    fn lateness(&self) -> (Reason, String) {
        match (&self.keeps, self.refused.iter().next()) {
            (Some(Keeps::Diverged(why)), _) => (Reason::Diverged, format!("it holds what it has: {why}")),
            (Some(Keeps::Ahead(ahead)), _) => {
                // As many as it likes to name.
                let origins: Vec<&str> = ahead.iter().map(|(origin, _)| origin.as_str()).take(3).collect();
                let more = ahead.iter().count() - origins.len();
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let of = origins.join(", ") + &more;
                (
                    Reason::Slow,
                    format!("it was told more than this zone knows of {of}: it waits for the zone"),
                )
            }
            (None, Some((part, why))) => (Reason::Refused, format!("{part}: {why}")),
            (None, None) if self.confirmed.is_none() => (Reason::Joining, String::new()),
            (None, None) => (Reason::Slow, String::new()),
        }
    }
}
