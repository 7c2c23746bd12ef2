//! `tombolo-zone-cp`: parses flags, starts the zone control plane, and runs it until it is told to stop.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    zone_cp::program().await
}
