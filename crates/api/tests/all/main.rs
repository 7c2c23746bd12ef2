//! The API from outside: as requests to its router, and over real connections.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod connections;
mod documents;
mod programs;
mod support;
mod watching;
