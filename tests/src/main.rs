//! A mesh in one process: one module per promise.

mod architecture;
mod processes;
mod promises;
mod static_path;
