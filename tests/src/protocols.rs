//! What applications may speak, through two sidecars.

mod apps;
mod bulk;
mod changes;
mod elsewhere;
mod framing;
mod grpc;
mod mesh;
mod raw;
mod smuggling;
mod trailers;
mod upgrades;
