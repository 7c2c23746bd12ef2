//! The door of a zone: relays mutually authenticated traffic by SNI, and never decrypts it.

pub mod control;
pub mod ingress;
pub mod open_files;
pub mod options;
pub mod run;
pub mod static_file;

pub use control::{ControlOptions, Running, start};
pub use ingress::{Ingress, Stopped};
pub use run::{PROGRAM, program, run_control, run_static};
