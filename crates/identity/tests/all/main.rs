//! What only a whole handshake, or several parts together, can show. One binary, one module per promise.

mod between_proxies;
mod support;
