//! Numbers that follow from a seed, and a count of what they brought about.

use std::collections::BTreeMap;

use super::fault::Fault;

pub(super) struct Random {
    state: u64,
    faults: BTreeMap<Fault, u64>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        Self { state, faults: BTreeMap::new() }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Whether this fault happens now, once in `n` times.
    pub(super) fn brings(&mut self, fault: Fault, n: u64) -> bool {
        let happens = self.one_in(n);
        if happens {
            self.count(fault);
        }
        happens
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(super) fn faults(self) -> BTreeMap<Fault, u64> {
        self.faults
    }
}
