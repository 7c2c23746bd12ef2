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
/// is called, for the commands to try. On a terminal everything is drawn in place and in color.
pub async fn watch(
    out: &mut (dyn Write + Send),
    terminal: bool,
    tombolo: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    writeln!(out, "Starting a mesh of two zones on this machine ...")?;
    out.flush()?;
    let (mut parts, mut told) = (String::new(), Ok(()));
    let mesh = Mesh::start(&mut |part| {
        let line = format!("  {part}\n");
        if told.is_ok() {
            told = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        }
        parts += &line;
    })
    .await?;
    told?;
    let up = format!(
        "A mesh of two zones, up after {:.1?}: real sockets, and mutual TLS from sidecar to sidecar.\n",
        start.elapsed()
    );
    let commands = commands(&mesh, tombolo)?;
    // What is drawn in place takes the place of what was told before.
    let head = if terminal { format!("{up}\n{parts}\n{commands}") } else { format!("{up}\n{commands}") };
    tokio::select! {
        shown = show(out, terminal, &head, &mesh) => shown?,
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
    let deny = mesh.write("deny-cart.yaml", DENY)?;
    let dir = mesh.global_dir();
    Ok(format!(
        "In another terminal:\n\n  \
         export TOMBOLO_ADDRESS=https://{api} TOMBOLO_TOKEN_FILE={dir}/admin.token TOMBOLO_CA={dir}/ca.crt\n  \
         alias tombolo={tombolo}\n  \
         tombolo apply -f {deny} --wait   # deny the cart to the frontend, and watch it stop\n  \
         tombolo delete MeshTrafficPermission deny-cart --wait   # allow it again\n  \
         tombolo zone list\n  \
         tombolo inspect dataplane cart-1 --zone west\n\n\
         Ctrl-C drains and ends everything.\n",
        api = mesh.global_addresses().api,
        dir = dir.display(),
        deny = deny.display(),
    ))
}

/// Draws everything in place on a terminal; elsewhere the tables follow each other.
async fn show(out: &mut (dyn Write + Send), terminal: bool, head: &str, mesh: &Mesh) -> anyhow::Result<()> {
    if !terminal {
        writeln!(out, "{head}")?;
    }
    loop {
        let table = table::render(mesh.traffic(), terminal);
        if terminal {
            // From the top, each line over the old one, and nothing of the old below.
            let screen = format!("{head}\n{table}\n").replace('\n', "\x1b[K\n");
            write!(out, "\x1b[H{screen}\x1b[J")?;
        } else {
            writeln!(out, "{table}")?;
        }
        out.flush()?;
        time::sleep(EVERY).await;
    }
}
