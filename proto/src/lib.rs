//! What crosses the wire between control planes and to proxies, as Protobuf.
//!
//! Only the generated messages and services. Who reads them turns them into types of its own where they
//! enter: `sync::frame` for the frames of a session.

pub mod codec;

/// Package `tombolo.sync.v1`: sessions between control planes, and between a zone and its proxies.
#[allow(clippy::all, unreachable_pub, unused_qualifications, reason = "generated")]
pub mod sync {
    pub mod v1 {
        tonic::include_proto!("tombolo.sync.v1");
    }
}
