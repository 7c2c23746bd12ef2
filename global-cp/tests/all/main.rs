//! The global from outside: over its API, and with zones that are nothing but a store and a session.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod bad_documents;
mod exports;
mod fake_zone;
mod fixture;
mod full_disk;
mod joining;
mod judged_again;
mod proof;
mod restart;
mod status;
mod travelling;
