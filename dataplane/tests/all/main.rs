//! Sidecars in control mode, against a zone made of the sync server and real authorities.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod control;
mod program;
mod zone;
