//! The command against a real API over real TLS.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod asking;
mod connecting;
mod contexts;
mod support;
mod watching;
mod writing;
