//! A mesh in one process: one module per promise.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod architecture;
mod clocks;
mod control_metrics;
mod demo_stops;
mod ended_leaf;
mod first_policy;
mod flaps;
mod full_disk;
mod hot_changes;
mod ingress;
mod lost_stores;
mod processes;
mod programs;
mod promises;
mod protocols;
mod renewal;
mod revoked;
mod several_zones;
mod static_path;
mod status;
mod ten_thousand;
mod zone_put_back;
