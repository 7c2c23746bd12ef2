//! A mesh in one process: one module per promise.
