//! The lower side of joining: a zone at the global, a sidecar or an ingress at its zone.
//!
//! A peer shows a token once and gets a client certificate, which it keeps together with the pin of the
//! authority that it expects. From then on it dials by that for ever, and asks for the next certificate over
//! the session, long before the old one ends. The token file is looked at again at each attempt, so that
//! replacing the file is all that has to be done when a control plane got a new authority.
//!
//! [`step`] decides what comes next and does nothing; [`membership`] does it. Whom we speak to is proven by
//! TLS in every case: there is no attempt without a pin. [`running`] is what sidecar and ingress have in common
//! from there on, to their orderly end.

pub mod kept;

pub mod token;

pub mod step;

pub mod membership;

pub mod running;

pub mod spread;

mod watched;

pub use kept::{Keep, KeepFile, Kept};
pub use membership::{CERTIFICATE, CLIENT_CERTIFICATE, Joining, Membership};
pub use running::{DRAINED, DRAINING, Drain, Program, Running};
pub use runtime::Clock;
pub use spread::spread;
pub use step::NoWay;
