//! What a proxy is told: the parts of its configuration, and how they are compiled from documents. Pure.
//!
//! [`view`] holds the documents as types; [`proxy`] is whom a part is for; [`compile`] makes the part.
//! [`endpoints`] makes the signals that stand beside the parts.

pub mod compile;
pub mod endpoints;
pub mod handle;
pub mod parts;
pub mod proxy;
pub mod view;

pub use compile::compile;
pub use proxy::Proxy;
pub use view::{Held, View};
