//! The tombolo command.
