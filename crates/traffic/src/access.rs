//! Lets a peer through to the application, or not, and remembers why not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::SystemTime;

use model::SpiffeId;
use policy::access::{Client, Effect, RuleOrigin, deciding};
use snapshot::parts::{Access, Enforcement};

/// What was decided about a client. Where no rule spoke, there is no origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Allowed,
    /// Let through, though counted as what is denied: by a shadow denial, or because policy is only observed.
    Observed(Option<RuleOrigin>),
    Denied(Option<RuleOrigin>),
}

impl Verdict {
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied(_))
    }
}

/// Decides about a client: once per connection, and again whenever the rules change.
pub fn judge(access: &Access, client: &Client) -> Verdict {
    let rule = deciding(&access.rules, Some(client));
    let origin = || rule.map(|rule| rule.origin.clone());
    match (rule.map(|rule| rule.effect), access.enforcement) {
        (Some(Effect::Allow), _) => Verdict::Allowed,
        (Some(Effect::AllowWithShadowDeny), _) => Verdict::Observed(origin()),
        (Some(Effect::Deny) | None, Enforcement::Observe) => Verdict::Observed(origin()),
        (Some(Effect::Deny) | None, Enforcement::Enforce) => Verdict::Denied(origin()),
    }
}

/// Something that was refused, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// What the client was told.
    pub id: String,
    pub client: SpiffeId,
    /// The name of the inbound's part.
    pub inbound: u16,
    /// None where no rule spoke for the client.
    pub rule: Option<RuleOrigin>,
    pub at: SystemTime,
}

/// The latest denials of a worker.
#[derive(Debug, Default)]
pub struct Denials(RefCell<VecDeque<Denial>>);

const REMEMBERED: usize = 1024;

impl Denials {
    /// Remembers a denial, and gives it an id that nobody can guess.
    pub fn record(&self, client: SpiffeId, inbound: u16, rule: Option<RuleOrigin>, at: SystemTime) -> String {
        let id = rand::random::<[u8; 16]>().iter().fold(String::with_capacity(32), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        });
        let mut ring = self.0.borrow_mut();
        if ring.len() == REMEMBERED {
            ring.pop_front();
        }
        ring.push_back(Denial { id: id.clone(), client, inbound, rule, at });
        id
    }

    pub fn find(&self, id: &str) -> Option<Denial> {
        self.0.borrow().iter().find(|denial| denial.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use policy::access::{AccessRule, ClientMatch};

    use super::*;

    #[test]
    fn silence_denies_unless_policy_is_only_observed() {
        let client = Client {
            id: "spiffe://default.east.mesh.local/workload/web".parse().unwrap(),
            zone: "east".parse().unwrap(),
        };
        let origin = RuleOrigin {
            policy: "MeshTrafficPermission/default/global//open".parse().unwrap(),
            version: "global-1-1".parse().unwrap(),
            path: "spec".into(),
        };
        let rule = |effect| AccessRule { effect, clients: ClientMatch::Anyone, origin: origin.clone() };
        let named = Some(origin.clone());
        let cases = [
            (Enforcement::Enforce, None, Verdict::Denied(None)),
            (Enforcement::Observe, None, Verdict::Observed(None)),
            (Enforcement::Enforce, Some(Effect::Deny), Verdict::Denied(named.clone())),
            (Enforcement::Observe, Some(Effect::Deny), Verdict::Observed(named.clone())),
            (Enforcement::Enforce, Some(Effect::AllowWithShadowDeny), Verdict::Observed(named)),
            (Enforcement::Enforce, Some(Effect::Allow), Verdict::Allowed),
        ];
        for (enforcement, effect, want) in cases {
            let access = Access { enforcement, rules: effect.map(rule).into_iter().collect() };
            assert_eq!(judge(&access, &client), want, "{enforcement:?} {effect:?}");
        }
    }

    #[test]
    fn only_the_latest_denials_are_remembered() {
        let denials = Denials::default();
        let client: SpiffeId = "spiffe://td/workload/web".parse().unwrap();
        let first = denials.record(client.clone(), 80, None, SystemTime::UNIX_EPOCH);
        assert_eq!(denials.find(&first).map(|denial| denial.client), Some(client.clone()));
        for _ in 0..REMEMBERED {
            denials.record(client.clone(), 80, None, SystemTime::UNIX_EPOCH);
        }
        assert_eq!(denials.find(&first), None);
    }
}
