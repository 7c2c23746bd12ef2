//! What bytes pass, in the order they pass it.
//!
//! An outbound connection goes through `listen`, `opening`, `http` or `tcp`, `route`, `balance`, `connect`
//! and `tls`; an inbound one through `listen`, `tls`, `access` and `http` or `tcp`; one through a zone
//! ingress through `listen`, `opening` and `relay`. The proxies are compositions of these.
//!
//! Everything here runs on a worker: one thread with a `current_thread` runtime and a `LocalSet`. Nothing is
//! shared between workers but immutable configuration, so state is held in `Rc` and `Cell`, and no lock is
//! taken on the way of a request.

pub mod config;
pub mod metrics;
pub mod standing;
pub mod worker;

pub mod listen;
pub mod opening;

pub mod http;
pub mod tcp;

pub mod route;

pub mod balance;
pub mod budget;

pub mod connect;

pub mod outbound;
pub mod tls;

pub mod access;
pub mod inbound;

pub mod relay;

mod deadline;
mod record;
mod transport;

#[cfg(test)]
mod fixture;

pub use config::ProxyConfig;
pub use metrics::Counters;
pub use tls::Credentials;
