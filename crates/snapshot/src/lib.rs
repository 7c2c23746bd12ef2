//! What a proxy is told: the parts of its configuration, and how they are compiled from documents. Pure.
//!
//! [`view`] holds the documents as types; [`proxy`] is whom a part is for; [`mod@compile`] makes the part.
//! [`endpoints`] makes the signals that stand beside the parts; [`joined`] finds the services behind those of
//! several zones.

pub mod compile;
pub mod endpoints;
pub mod handle;
pub mod joined;
pub mod parts;
pub mod proxy;
pub mod view;

pub use compile::compile;
pub use joined::Joined;
pub use proxy::{Proxy, is_for};
pub use view::{Held, View};
