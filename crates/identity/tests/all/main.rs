//! What only a whole handshake, or several parts together, can show. One binary, one module per promise.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod between_proxies;
mod forge;
mod issuing;
mod limbo;
mod secrets;
mod support;
mod tokens;
mod trusting;
mod with_control_planes;
