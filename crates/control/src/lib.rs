//! What both control planes are: a data folder, server certificates, joining, tokens, defaults, serving.
//!
//! The global and the zones are compositions of these. Read `home` first, which everything else stands on;
//! then `server_tls` and `serve` (how one is reached), `enrolment`, `issuing`, `revocation` and `tokens` (how peers join,
//! and when they may stay no more), `defaults`
//! (what a first start makes), `presence` (how others are heard), `questions` (the words between a global and its
//! zones), `line` (whose history counts when a store was put back), `views` (what begins to travel), `revisions` (which there are), `reports` (what was
//! not taken, and by whom), `again` (when that is judged again), `degraded` (whose proof that spoils), `unread` (what got into a store behind the API) and `patience` (what waits for a disk that is
//! full).
//! `metrics` is what both count.

pub mod home;

pub mod server_tls;

pub mod serve;

pub mod enrolment;

pub mod issuing;

pub mod revocation;

pub mod tokens;

pub mod defaults;

pub mod presence;

pub mod questions;

pub mod line;

pub mod views;

pub mod revisions;

pub mod reports;

pub mod again;

pub mod degraded;

pub mod unread;

pub mod patience;

pub mod metrics;

pub use again::Again;
pub use enrolment::{EnrolError, Enrolled, Enroller, Grant, TurnedAway};
pub use home::{Home, HomeError};
pub use issuing::Issuing;
pub use line::Holds;
pub use metrics::Metrics;
pub use patience::not_yet;
pub use reports::{Refusals, Reports};
pub use revocation::Admission;
pub use runtime::Clock;
pub use serve::{Addresses, Listeners, Running};
pub use server_tls::ServerTls;
pub use tokens::TokenOffice;
pub use unread::Unread;
