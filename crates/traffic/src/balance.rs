//! Which endpoint is tried next.
//!
//! Of those that are ready and in good standing, the less busy of two picked at random by weight. Those of our
//! own zone come first; others only where ours has none in good standing. Where all are ejected, they are tried
//! all the same: an ejection is a guess, and a certain failure is no better than a likely one. Only who showed
//! a wrong identity stays out until its time is over.

use std::time::Duration;

use tokio::time::Instant;

/// An endpoint, as far as picking it is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    pub fitness: Fitness,
    /// Whether it is in our own zone.
    pub is_near: bool,
    /// Requests and connections that it has now.
    pub in_flight: u32,
    pub weight: u32,
}

/// Ordered: the better is the greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fitness {
    /// Not ready, tried already, or not who it should be.
    Out,
    /// Connecting to it failed lately.
    Ejected,
    Good,
}

/// Picks one of `count` candidates, or none where all are out. `dice` are two random numbers.
pub fn pick(count: usize, candidate: impl Fn(usize) -> Candidate, dice: [u64; 2]) -> Option<usize> {
    let rank = |index: usize| {
        let candidate = candidate(index);
        (candidate.fitness, candidate.is_near)
    };
    let best = (0..count).map(rank).max()?;
    if best.0 == Fitness::Out {
        return None;
    }
    let eligible = |index: &usize| rank(*index) == best;
    // A weight of nothing counts only beside others.
    let total: u64 = (0..count).filter(eligible).map(|index| u64::from(candidate(index).weight)).sum();
    let weight = |index: usize| if total == 0 { 1 } else { u64::from(candidate(index).weight) };
    let total = if total == 0 { (0..count).filter(eligible).count() as u64 } else { total };

    let draw = |dice: u64, total: u64, without: Option<usize>| {
        let mut left = dice % total;
        (0..count).filter(eligible).filter(|index| Some(*index) != without).find(|index| {
            let weight = weight(*index);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    };
    let first = draw(dice[0], total, None)?;
    let rest = total - weight(first);
    if rest == 0 {
        return Some(first);
    }
    let second = draw(dice[1], rest, Some(first))?;
    // In flight per weight, without dividing.
    let load = |index: usize, other: usize| u64::from(candidate(index).in_flight) * weight(other);
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// How an endpoint did lately.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Record {
    failures: u32,
    until: Option<Instant>,
    wrong_identity: bool,
}

const FIRST_EJECTION: Duration = Duration::from_millis(250);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);

impl Record {
    pub fn fitness(&self, now: Instant) -> Fitness {
        match self.until {
            Some(until) if now < until && self.wrong_identity => Fitness::Out,
            Some(until) if now < until => Fitness::Ejected,
            _ => Fitness::Good,
        }
    }

    /// Whether it failed since it last succeeded.
    pub fn is_spotless(&self) -> bool {
        self.failures == 0
    }

    /// Ends an ejection, and forgets what led to it. Who showed a wrong identity stays out: what succeeded then began
    /// before.
    pub fn succeeded(&mut self, now: Instant) {
        if self.fitness(now) != Fitness::Out {
            *self = Self::default();
        }
    }

    /// Ejects for 250 ms, and for twice as long each time until it succeeds. Whatever fails while it is ejected
    /// was on its way before, or is tried for want of anybody else: it ejects no further, or many at once would
    /// make half a minute of a moment. A wrong identity does. Says whether it ejected.
    pub fn failed(&mut self, wrong_identity: bool, now: Instant) -> bool {
        let ejects = match self.fitness(now) {
            Fitness::Good => true,
            Fitness::Ejected => wrong_identity,
            Fitness::Out => false,
        };
        if ejects {
            let time = FIRST_EJECTION * 2_u32.pow(self.failures.min(7));
            *self = Self {
                failures: self.failures.saturating_add(1),
                until: Some(now + time.min(LONGEST_EJECTION)),
                wrong_identity,
            };
        }
        ejects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(fitness: Fitness, in_flight: u32, weight: u32) -> Candidate {
        Candidate { fitness, is_near: false, in_flight, weight }
    }

    fn near(fitness: Fitness, in_flight: u32) -> Candidate {
        Candidate { is_near: true, ..candidate(fitness, in_flight, 1) }
    }

    /// How often each is picked over all pairs of dice.
    fn picks(candidates: &[Candidate]) -> Vec<usize> {
        let mut picks = vec![0; candidates.len()];
        for dice in (0..60).flat_map(|one| (0..60).map(move |other| [one, other])) {
            if let Some(picked) = pick(candidates.len(), |index| candidates[index], dice) {
                picks[picked] += 1;
            }
        }
        picks
    }

    #[test]
    fn the_good_go_before_the_ejected_and_the_out_are_never_picked() {
        use Fitness::*;
        let cases = [
            ("nobody", vec![], vec![]),
            ("all are out", vec![candidate(Out, 0, 1), candidate(Out, 0, 1)], vec![0, 0]),
            ("good first", vec![candidate(Ejected, 0, 1), candidate(Good, 9, 1)], vec![0, 3600]),
            (
                "all are ejected",
                vec![candidate(Ejected, 0, 1), candidate(Ejected, 0, 1), candidate(Out, 0, 1)],
                vec![1800, 1800, 0],
            ),
            ("no weight", vec![candidate(Good, 0, 0), candidate(Good, 0, 1)], vec![0, 3600]),
            ("no weight at all", vec![candidate(Good, 0, 0), candidate(Good, 0, 0)], vec![1800, 1800]),
        ];
        for (why, candidates, want) in cases {
            assert_eq!(picks(&candidates), want, "{why}");
        }
    }

    #[test]
    fn another_zone_is_picked_only_where_ours_has_nobody_in_good_standing() {
        use Fitness::*;
        let far = |fitness| candidate(fitness, 0, 1);
        let cases = [
            ("however busy", vec![near(Good, 9), far(Good)], vec![3600, 0]),
            ("among ours the less busy", vec![near(Good, 9), near(Good, 1), far(Good)], vec![0, 3600, 0]),
            ("one of ours is left", vec![near(Ejected, 0), near(Good, 9), far(Good)], vec![0, 3600, 0]),
            ("ours are ejected", vec![near(Ejected, 0), near(Out, 0), far(Good)], vec![0, 0, 3600]),
            ("ours are out", vec![near(Out, 0), far(Good), far(Good)], vec![0, 1800, 1800]),
            ("everybody is ejected", vec![far(Ejected), near(Ejected, 0)], vec![0, 3600]),
            ("the others are out", vec![near(Ejected, 0), far(Out)], vec![3600, 0]),
        ];
        for (why, candidates, want) in cases {
            assert_eq!(picks(&candidates), want, "{why}");
        }
    }

    #[test]
    fn the_less_busy_of_two_is_picked() {
        let busy = picks(&[candidate(Fitness::Good, 3, 1), candidate(Fitness::Good, 2, 1)]);
        assert_eq!(busy, [0, 3600]);
        let weighed = picks(&[candidate(Fitness::Good, 4, 3), candidate(Fitness::Good, 2, 1)]);
        assert_eq!(weighed, [3600, 0]);
        let three = picks(&[1, 1, 5].map(|in_flight| candidate(Fitness::Good, in_flight, 1)));
        assert_eq!(three[2], 0, "the busiest of three always meets a better one");
    }

    #[test]
    fn an_ejection_doubles_until_thirty_seconds_and_ends_with_a_success() {
        let mut now = Instant::now();
        let mut record = Record::default();
        assert_eq!(record.fitness(now), Fitness::Good);
        for millis in [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000] {
            assert!(record.failed(false, now));
            now += Duration::from_millis(millis - 1);
            assert_eq!(record.fitness(now), Fitness::Ejected);
            now += Duration::from_millis(1);
            assert_eq!(record.fitness(now), Fitness::Good);
        }
        record = Record::default();
        assert!(record.failed(true, now));
        assert_eq!(record.fitness(now), Fitness::Out);
        assert_eq!(record.fitness(now + FIRST_EJECTION), Fitness::Good);
    }

    #[test]
    fn many_that_fail_together_eject_once_and_a_wrong_identity_all_the_same() {
        let now = Instant::now();
        let mut record = Record::default();
        assert!(record.failed(false, now));
        for _ in 0..100 {
            assert!(!record.failed(false, now));
        }
        assert_eq!(record.fitness(now + FIRST_EJECTION), Fitness::Good);
        assert!(record.failed(true, now));
        assert_eq!(record.fitness(now), Fitness::Out);
        assert!(!record.failed(false, now));
        assert_eq!(record.fitness(now), Fitness::Out);
    }
}
