//! One module per policy kind: matching, merging, deciding. Pure.

pub mod matching;
pub mod merge;
pub mod order;
pub mod targeting;

pub mod access;
pub mod path;
pub mod permission;
pub mod route;
pub mod timeout;
