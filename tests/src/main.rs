//! A mesh in one process: one module per promise.

mod architecture;
mod promises;
mod static_path;
