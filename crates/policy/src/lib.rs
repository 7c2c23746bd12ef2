//! One module per policy kind: matching, merging, deciding. Pure.

pub mod access;
