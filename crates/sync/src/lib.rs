//! Keeps a remote copy in step: one state machine for both hops, and its adapter to gRPC.
//!
//! Read [`session`] first: it decides everything. [`link`] runs a session over any transport of frames for a
//! [`link::Host`], which is what a program implements; [`server`] and [`client`] bring the transport.

pub mod topic;

pub mod batch;

pub mod holdings;

pub mod line;

pub mod frame;

pub mod names;

pub mod session;

pub mod counters;

pub mod link;

pub mod server;

pub mod client;

pub use batch::{Base, Batch, Digest, Entry, Place, Refused};
pub use counters::Counters;
pub use holdings::{Body, Holdings, Wanted};
pub use topic::Topic;
