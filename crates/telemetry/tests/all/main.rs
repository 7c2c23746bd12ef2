//! Telemetry as its users see it: a scrape, a file of lines, a collector.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod access_log;
mod collector;
mod scrape;
mod support;
