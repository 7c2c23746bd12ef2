//! A mesh of two zones in one process: to look at, and to prove each promise against.
//!
//! [`mesh`] starts the real parts of each program over real sockets on loopback; [`members`] says who is in the
//! shop, [`shop`] are the applications behind the sidecars, and [`traffic`] what they ask each other all the time.
//! [`promises`] are checked against the running mesh, by `tombolo demo --check` and by the tests, some under a
//! [`load`] of their own, or with [`writers`], with a [`process`] of its own for what is killed, or with a [`liar`].

pub mod api_client;
pub mod check;
pub mod client;
pub mod liar;
pub mod load;
pub mod members;
pub mod mesh;
pub mod process;
pub mod promises;
pub mod relay;
pub mod shop;
pub mod table;
pub mod traffic;
pub mod watch;
pub mod writers;

pub use check::check;
pub use mesh::Mesh;
pub use watch::watch;
