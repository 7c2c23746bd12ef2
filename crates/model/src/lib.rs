//! Nouns: names, labels, versions, documents, and every resource kind with its validation.
//!
//! Pure: no sockets, no clock, no Protobuf. Text becomes a type of this crate where it enters the
//! program; whoever holds the type need not check again.

mod text;

pub mod destination;
pub mod document;
pub mod duration;
pub mod key;
pub mod kinds;
pub mod labels;
pub mod name;
pub mod record;
pub mod spiffe;
pub mod template;
pub mod version;

pub use destination::{DestinationId, Protocol, SectionName, ServiceKind};
pub use document::{Document, Violation};
pub use key::{DocumentKey, KindName};
pub use kinds::{Kind, Spec};
pub use labels::Labels;
pub use name::{MeshName, Name, ResourceName, WorkloadName, ZoneName};
pub use record::{BundleNumber, Record};
pub use spiffe::{SpiffeId, TrustDomain};
pub use version::{InvalidVersion, Origin, Point, Version, World};
