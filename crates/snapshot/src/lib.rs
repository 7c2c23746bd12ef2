//! What a proxy is told: the parts of its configuration, and how they are compiled from documents. Pure.

pub mod parts;
