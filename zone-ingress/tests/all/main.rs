//! Ingresses in control mode, against the zone that the sidecar's tests use.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod control;
mod program;
#[allow(dead_code, reason = "an ingress has no parts")]
#[path = "../../../dataplane/tests/all/zone.rs"]
mod zone;
