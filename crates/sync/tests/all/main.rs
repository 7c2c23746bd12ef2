//! Sessions as their users see them: simulated by seeds, over pipes on a paused clock, and over real TLS.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod frames;
mod host;
mod links;
mod loopback;
mod sessions;
mod simulation;
