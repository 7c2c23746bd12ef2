//! A mesh in one process: one module per promise.

mod static_path;
