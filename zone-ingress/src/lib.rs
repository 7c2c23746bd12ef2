//! The door of a zone: relays mutually authenticated traffic by SNI, and never decrypts it.

pub mod ingress;
pub mod options;
pub mod run;
pub mod static_file;

pub use ingress::{Ingress, Stopped};
pub use run::run_static;
