//! What applications may speak, through two sidecars.

mod apps;
mod bulk;
mod changes;
mod elsewhere;
mod floods;
mod frames;
mod framing;
mod grpc;
mod mesh;
mod raw;
mod rfc9113;
mod smuggling;
mod trailers;
mod trust;
mod upgrades;
