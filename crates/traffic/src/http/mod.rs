//! HTTP, request by request.
//!
//! The outbound takes from its application what the destination's protocol says, HTTP/1.1 or HTTP/2 without
//! TLS, and sends HTTP/2 to other proxies; the inbound takes either from other proxies and sends its
//! application what the inbound's protocol says. Bodies stream, trailers go with them, and whoever reads
//! slowly slows down who writes.

pub mod application;
pub mod body;
mod bounded;
mod edge;
mod framing;
mod headers;
pub mod inbound;
#[cfg(test)]
mod limits;
pub mod outbound;
pub(crate) mod pool;
mod problem;
#[cfg(test)]
mod revocations;
#[cfg(test)]
mod timeouts;
mod upgrade;
mod upload;

pub(crate) use bounded::Request;
pub use headers::{CLIENT_ID, DECISION_ID};
