//! The zone control plane: turns documents into what its proxies run.
//!
//! Documents come from the global ([`upstream`]), from people ([`api`]) and from proxies that register
//! ([`registration`]); what follows from them is written beside them ([`generate`], pure; [`generator`]). The
//! [`planner`] decides what each proxy is to run and who does; the [`hub`] tells them, over their sessions
//! ([`proxies`]), and [`history`] which of its histories counts for them. [`authorities`] sign their certificates.

pub mod answers;
pub mod authorities;
pub mod generate;
pub mod generator;
pub mod history;
pub mod hub;
pub mod ingresses;
pub mod lives;
pub mod memory;
pub mod metrics;
pub mod options;
pub mod planner;
pub mod proof;
pub mod proxies;
pub mod registration;
pub mod replica;
pub mod reporter;
pub mod run;
pub mod sessions;
pub mod settling;
pub mod start;
pub mod take_up;
pub mod upstream;

pub use options::Options;
pub use run::{PROGRAM, program};
pub use start::ZoneCp;
