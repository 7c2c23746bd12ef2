//! One module per policy kind: matching, merging, deciding. Pure.

pub mod targeting;

pub mod access;
pub mod permission;
