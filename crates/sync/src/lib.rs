//! Keeps a remote copy in step: one state machine for both hops, and its adapter to gRPC.
