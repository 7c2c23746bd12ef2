//! Decides when what was refused is judged again. Its bytes are not kept, so its owner is asked for everything anew.
//!
//! That is once a process has started, as a newer program may know more; when what judging reads has changed; and when more
//! is refused than is named, and some of what is named is refused no more.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::kinds::{MeshTrust, ResourceSpec};

use crate::reports::Refusals;

/// Of one lane; kept as long as the process runs.
#[derive(Debug, Default)]
pub struct Again(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    /// As of when all that is refused was judged; none before anything was in this process.
    judged: Option<Changes>,
    /// The owner was asked for everything, and sent nothing since.
    asked: bool,
}

/// What changed of that which judging reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Changed {
    /// What is said of the owner itself, on which anything may depend.
    Owner,
    /// A trust bundle of somebody else: the key of an authority belongs to one trust domain.
    Bundle,
}

/// How often it changed so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    owner: u64,
    bundles: u64,
}

impl Again {
    /// Answers whether the topic is to be opened anew for what is refused. Where it was already, that is looked at when its
    /// batch is there.
    pub fn changed(&self, what: Changed, refused: &Refusals) -> bool {
        let mut state = self.state();
        match what {
            Changed::Owner => state.changes.owner += 1,
            Changed::Bundle => state.changes.bundles += 1,
        }
        !state.asked && state.is_outdated(refused)
    }

    /// The topic is opened: whether the owner is to be asked for everything.
    pub fn opens(&self, refused: &Refusals) -> bool {
        let mut state = self.state();
        state.asked = !refused.is_empty() && (state.judged.is_none() || state.is_outdated(refused));
        state.asked
    }

    /// As of when a batch is judged: to be asked before anything is read for it.
    pub fn as_of(&self) -> Changes {
        self.state().changes
    }

    /// A batch was taken over. Answers whether the topic is to be opened anew.
    pub fn taken_over(&self, whole: bool, as_of: Changes, before: &Refusals, after: &Refusals) -> bool {
        let mut state = self.state();
        // An owner that sends a difference though it was asked for everything does not understand; it is not asked again
        // before something changes.
        if std::mem::take(&mut state.asked) || whole || before.is_empty() {
            state.judged = Some(as_of);
        }
        if after.is_short() && !before.is_short() {
            state.judged = None;
            return true;
        }
        state.is_outdated(after)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only plain assignments happen under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether some of this might not be refused any more.
    fn is_outdated(&self, refused: &Refusals) -> bool {
        let Some(judged) = self.judged.filter(|_| !refused.is_empty()) else { return false };
        let bundles = judged.bundles != self.changes.bundles && refused.concern(MeshTrust::KIND.name);
        judged.owner != self.changes.owner || bundles
    }
}

#[cfg(test)]
mod tests {
    use model::Origin;
    use sync::Refused;

    use super::*;
    use crate::reports::{AND_MORE, MOST};

    fn some() -> Refusals {
        Refusals::heard(&Origin::Global, &[Refused::new("MeshTrust/default/east//t", None, "bad")])
    }

    #[test]
    fn everything_is_asked_for_once_after_a_start_if_something_is_refused() {
        let again = Again::default();
        assert!(!Again::default().opens(&Refusals::default()), "nothing is refused");
        assert!(again.opens(&some()));
        assert!(again.opens(&some()), "nothing came in the session before");
        assert!(!again.taken_over(true, again.as_of(), &some(), &some()));
        assert!(!again.opens(&some()), "it was judged by this process");
    }

    #[test]
    fn a_change_of_what_judging_reads_has_what_is_refused_judged_again() {
        let again = Again::default();
        again.taken_over(true, again.as_of(), &Refusals::default(), &some());
        assert!(again.changed(Changed::Owner, &some()) && again.opens(&some()));
        assert!(!again.changed(Changed::Owner, &some()), "it is on its way");
        let as_of = again.as_of();
        assert!(!again.taken_over(true, as_of, &some(), &some()), "what came was judged after both");
        assert!(!again.opens(&some()));
    }

    #[test]
    fn only_bundles_are_judged_again_for_somebody_elses() {
        let service = Refused::new("MeshService/default/east//web", None, "bad");
        let service = Refusals::heard(&Origin::Global, &[service]);
        for (refused, concerned) in [(some(), true), (service, false)] {
            let again = Again::default();
            again.taken_over(true, again.as_of(), &Refusals::default(), &refused);
            assert_eq!(again.changed(Changed::Bundle, &refused), concerned);
            assert_eq!(again.opens(&refused), concerned);
        }
    }

    #[test]
    fn where_more_is_refused_than_is_named_it_is_judged_again_once_there_is_room() {
        let refusals = |named: usize| {
            let named =
                (1..=named).map(|n| Refused::new(format!("MeshService/default/east//s{n}"), None, "bad"));
            let more = Refused::new(AND_MORE, None, "more");
            Refusals::heard(&Origin::Global, &named.chain([more]).collect::<Vec<_>>())
        };
        let (full, short) = (refusals(MOST - 1), refusals(MOST - 2));
        let again = Again::default();
        assert!(!again.taken_over(false, again.as_of(), &Refusals::default(), &full));
        assert!(!again.opens(&full));
        assert!(again.taken_over(false, again.as_of(), &full, &short));
        assert!(again.opens(&short));
        // Of an owner that does not understand it is not asked again at once.
        assert!(!again.taken_over(false, again.as_of(), &short, &refusals(MOST - 3)));
        assert!(!again.opens(&short));
    }

    #[test]
    fn a_change_while_a_batch_is_judged_is_not_missed() {
        let again = Again::default();
        let as_of = again.as_of();
        again.changed(Changed::Owner, &some());
        assert!(again.taken_over(false, as_of, &Refusals::default(), &some()), "refused by what was before");
        assert!(again.opens(&some()));
        assert!(!again.taken_over(true, as_of, &some(), &Refusals::default()), "nothing is refused any more");
        let as_of = again.as_of();
        assert!(
            !again.taken_over(false, as_of, &Refusals::default(), &some()),
            "it was judged by what is now"
        );
    }

    #[test]
    fn an_owner_that_sends_differences_alone_is_not_asked_for_ever() {
        let again = Again::default();
        assert!(again.opens(&some()));
        assert!(!again.taken_over(false, again.as_of(), &some(), &some()));
        assert!(!again.opens(&some()));
        assert!(again.changed(Changed::Owner, &some()) && again.opens(&some()));
    }
}
