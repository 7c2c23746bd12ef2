//! Opaque connections: one TLS connection for each, and nothing of them is looked into.

pub mod inbound;
pub mod outbound;
