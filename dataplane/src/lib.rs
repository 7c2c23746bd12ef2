//! The sidecar: carries an application's traffic in and out under mutual TLS.

pub mod control;
pub mod options;
pub mod proxy;
pub mod run;
pub mod static_file;

mod worker;

pub use control::{ControlOptions, Running, start};
pub use proxy::{Applied, Proxy, Purpose, Stopped};
pub use run::{PROGRAM, program, run_control, run_static};
