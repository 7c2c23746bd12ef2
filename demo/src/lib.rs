//! A mesh of two zones in one process: to look at, and to prove each promise against.
//!
//! [`mesh`] starts the real parts of each program over real sockets on loopback; [`shop`] are the
//! applications behind the sidecars, and [`traffic`] what they ask each other all the time. [`promises`] are
//! checked against the running mesh, by `tombolo demo --check` and by the tests.

pub mod api_client;
pub mod check;
pub mod mesh;
pub mod promises;
pub mod relay;
pub mod shop;
pub mod table;
pub mod traffic;
pub mod watch;

pub use check::check;
pub use mesh::Mesh;
pub use watch::watch;
