//! What every process needs and no part of the mesh owns: what it is told from outside, the time of day, tasks with an owner and an end, shutdown, logs,
//! the ready line, health and metrics, files that are whole or not there.
//!
//! It knows none of our other crates, and keeps nothing global: a test can start many programs at once.

pub mod options;

pub mod clock;

pub mod tasks;

pub mod shutdown;

pub mod logs;

pub mod ready;

pub mod admin;

pub mod files;

pub use admin::{AdminPages, Readiness, ReadyGuard};
pub use clock::Clock;
pub use ready::ReadyLine;
pub use tasks::{Children, Stage, Tasks};
