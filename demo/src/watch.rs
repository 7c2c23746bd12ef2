//! `tombolo demo`: a mesh to look at and to play with, until Ctrl-C.

use std::io::Write;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::mesh::Mesh;
use crate::table;

/// How often the table is drawn.
const EVERY: Duration = Duration::from_secs(1);

const DENY: &str = "\
type: MeshTrafficPermission
mesh: default
name: deny-cart
spec:
  targetRef:
    kind: Dataplane
    labels: {tombolo.io/workload: cart}
  rules:
  - default:
      deny:
      - source: {workload: frontend}
";

/// Starts the mesh and shows it until `stop`, then drains and ends everything. `tombolo` is how this command
/// is called, for the commands to try. On a terminal the table is drawn in place and in color.
pub async fn watch(
    out: &mut (dyn Write + Send),
    terminal: bool,
    tombolo: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    writeln!(out, "Starting a mesh of two zones on this machine ...")?;
    let mut lines = Vec::new();
    let mesh = Mesh::start(&mut |line| lines.push(line)).await?;
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    writeln!(
        out,
        "Ready after {:.1?}. Every sidecar asks through real sockets, with mutual TLS.\n",
        start.elapsed()
    )?;
    writeln!(out, "{}", commands(&mesh, tombolo)?)?;
    out.flush()?;
    tokio::select! {
        shown = show(out, terminal, &mesh) => shown?,
        () = stop => {}
    }
    writeln!(out, "\nDraining ...")?;
    mesh.shutdown().await?;
    writeln!(out, "Everything has ended.")?;
    Ok(())
}

/// What to type in another terminal.
fn commands(mesh: &Mesh, tombolo: &str) -> anyhow::Result<String> {
    let deny = mesh.write("deny-cart.yaml", DENY)?;
    let dir = mesh.global_dir();
    Ok(format!(
        "In another terminal:\n\n  \
         export TOMBOLO_ADDRESS=https://{api}\n  \
         export TOMBOLO_TOKEN_FILE={dir}/admin.token TOMBOLO_CA={dir}/ca.crt\n\n  \
         {tombolo} zone list\n  \
         {tombolo} apply -f {deny} --wait      # nobody in the frontend reaches the cart any more\n  \
         {tombolo} delete MeshTrafficPermission deny-cart      # and now again\n  \
         {tombolo} inspect dataplane cart-1 --zone west\n\n\
         Ctrl-C ends the demo.\n",
        api = mesh.global_addresses().api,
        dir = dir.display(),
        deny = deny.display(),
    ))
}

/// Draws the table in place on a terminal, and one below the other elsewhere.
async fn show(out: &mut (dyn Write + Send), terminal: bool, mesh: &Mesh) -> anyhow::Result<()> {
    let mut drawn = 0;
    loop {
        let table = table::render(mesh.traffic(), terminal);
        if terminal && drawn > 0 {
            // Up by as many lines as were drawn, and clear from there.
            write!(out, "\x1b[{drawn}A\x1b[J")?;
        }
        writeln!(out, "{table}")?;
        out.flush()?;
        drawn = table.lines().count();
        time::sleep(EVERY).await;
    }
}
