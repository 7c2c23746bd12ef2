//! HTTP, request by request.
//!
//! The outbound takes HTTP/1.1 from its application and sends HTTP/2 to other proxies; the inbound takes
//! either from other proxies and sends HTTP/1.1 to its application. Bodies stream, and whoever reads slowly
//! slows down who writes.

pub mod application;
pub mod body;
mod headers;
pub mod inbound;
pub mod outbound;
pub(crate) mod pool;
mod problem;

pub use headers::{CLIENT_ID, DECISION_ID};
