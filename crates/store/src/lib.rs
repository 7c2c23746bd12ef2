//! Documents at rest: one trait, several backends, one conformance suite.
