//! Compiles the .proto files without an installed protoc.

#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=tombolo");
    let descriptors = protox::compile(["tombolo/sync/v1/sync.proto"], ["."])?;
    // Without transport no `connect` constructor is generated, which would stand in the way of the call
    // of that name; we bring our own channel anyway.
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Lean")
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
