//! What control planes cost, measured on the real programs.
//!
//! [`scale`] starts a zone control plane and, in a process of their own, [`proxies`]: each of them [`simulated`], with its own
//! key, certificates, TLS connection and session, carrying no traffic. What the programs take is read from the
//! system ([`usage`]), and told as a table for people or as lines of JSON ([`report`]).
//!
//! [`figures`] starts a whole [`mesh`] of processes for certain [`parties`]: their [`application`]s are [`asking`] each
//! other, while policies change, services come and programs die.

pub mod figures;

pub mod parties;

pub mod mesh;

pub mod asking;

pub mod application;

pub mod scale;

pub mod proxies;

pub mod simulated;

pub mod decoded;

pub mod usage;

pub mod report;
