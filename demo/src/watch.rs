//! `tombolo demo`: a mesh to look at and to play with, until Ctrl-C.

use std::io::Write;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::members::DENIAL_DOCUMENT;
use crate::mesh::Mesh;
use crate::table;

/// How often the table is drawn.
const EVERY: Duration = Duration::from_secs(1);

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
    out.flush()?;
    let mut told = Ok(());
    let mesh = Mesh::start(&mut |part| {
        if told.is_ok() {
            told = writeln!(out, "  {part}").and_then(|()| out.flush());
        }
    })
    .await?;
    told?;
    writeln!(
        out,
        "It is up after {:.1?}: real sockets, and mutual TLS from sidecar to sidecar.\n\n{}",
        start.elapsed(),
        commands(&mesh, tombolo)?
    )?;
    tokio::select! {
        shown = show(out, terminal, &mesh) => shown?,
        () = stop => {}
    }
    writeln!(out, "\nDraining ...")?;
    out.flush()?;
    mesh.shutdown().await?;
    writeln!(out, "Everything has ended.")?;
    Ok(())
}

/// What to type in another terminal.
fn commands(mesh: &Mesh, tombolo: &str) -> anyhow::Result<String> {
    let deny = mesh.write("no-frontend.yaml", DENIAL_DOCUMENT)?;
    let dir = mesh.global_dir();
    Ok(format!(
        "In another terminal:\n\n  \
         export TOMBOLO_ADDRESS=https://{api}\n  \
         export TOMBOLO_TOKEN_FILE={dir}/admin.token\n  \
         export TOMBOLO_CA={dir}/ca.crt\n  \
         alias tombolo={tombolo}\n\n  \
         # Deny the cart to the frontend, watch it stop, and allow it again:\n  \
         tombolo apply -f {deny} --wait\n  \
         tombolo delete MeshTrafficPermission no-frontend --wait\n\n  \
         # Look around:\n  \
         tombolo zone list\n  \
         tombolo inspect dataplane cart-1 --zone west\n\n\
         Ctrl-C drains and ends everything.\n",
        api = mesh.global_addresses().api,
        dir = dir.display(),
        deny = deny.display(),
    ))
}

/// Draws the table in place on a terminal; elsewhere the tables follow each other.
async fn show(out: &mut (dyn Write + Send), terminal: bool, mesh: &Mesh) -> anyhow::Result<()> {
    let mut drawn = 0;
    loop {
        let table = table::render(mesh.traffic(), terminal);
        if terminal {
            if drawn > 0 {
                write!(out, "\x1b[{drawn}A")?;
            }
            // A line that is too long for the terminal is cut off there, or the next would be drawn over it.
            write!(out, "\x1b[?7l{}\x1b[?7h", format!("{table}\n").replace('\n', "\x1b[K\n"))?;
            drawn = table.lines().count();
        } else {
            writeln!(out, "{table}")?;
        }
        out.flush()?;
        time::sleep(EVERY).await;
    }
}
