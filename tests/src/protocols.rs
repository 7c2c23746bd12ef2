//! What applications may speak, through two sidecars.

mod apps;
mod elsewhere;
mod grpc;
mod mesh;
mod trailers;
