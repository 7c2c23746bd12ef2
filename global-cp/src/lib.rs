//! The global control plane: owns policy, joins zones.
//!
//! People write documents through the REST API; zones dial in and keep copies of what travels to them, and
//! hand up what they originate, which is judged ([`originated`]) and passed on to the others. What changes by
//! itself, the endpoints of services, is relayed between zones without being stored ([`exports`]). Who runs a
//! revision is asked of the zones when somebody wants to know ([`proof`]).

pub mod options;

pub mod run;

mod start;

pub mod policy;

pub mod originated;

pub mod bundles;

pub mod exports;

mod zones;

mod session;

mod refusals;

pub mod proof;

mod admission;

mod answers;

mod metrics;

pub use options::Options;
pub use run::{PROGRAM, program};
pub use start::GlobalCp;
