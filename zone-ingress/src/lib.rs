//! The door of a zone: relays mutually authenticated traffic by SNI, and never decrypts it.
