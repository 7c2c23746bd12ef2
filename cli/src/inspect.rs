//! `tombolo inspect`: what a proxy was told, and what it says that it runs.

use std::process::ExitCode;

use api::shapes::{InspectDataplane, ProxyState};
use clap::{Args, Subcommand};
use model::{MeshName, ResourceName, World, ZoneName};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Out, Tone, table};

#[derive(Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// One sidecar: the parts of its configuration, and whether it runs them
    Dataplane(DataplaneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DataplaneArgs {
    name: ResourceName,
    #[arg(short, long, default_value = "default")]
    mesh: MeshName,
    /// Its zone; needed on the global.
    #[arg(long)]
    zone: Option<ZoneName>,
}

pub(crate) async fn run(
    command: InspectCommand,
    client: Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let InspectCommand::Dataplane(DataplaneArgs { name, mesh, zone }) = command;
    let zone = zone.map(|zone| format!("?zone={zone}")).unwrap_or_default();
    let found: InspectDataplane =
        client.get(&format!("/meshes/{mesh}/dataplanes/{name}/_config{zone}")).await?;
    out.show(&found, || explain(&found))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn explain(found: &InspectDataplane) -> String {
    let state = match found.state {
        ProxyState::Current => "runs what it was told",
        ProxyState::Late => "does not yet run what it was told",
        ProxyState::Unknown => "has no session: nobody knows what it runs",
    };
    let mut text = format!("{}/{} in zone {}: {state}\n", found.mesh, found.name, found.zone);
    text.push_str(&format!("compiled from {}\n", versions(&found.world)));
    if let Some(acknowledged) = &found.acknowledged {
        text.push_str(&format!("acknowledged {}\n", versions(acknowledged)));
    }
    text.push('\n');
    text.push_str(&table(
        &["PART", "RUNS", "REFUSED BECAUSE"],
        found.parts.iter().map(|part| {
            let runs = if part.acknowledged { "yes".into() } else { Tone::Bad.cell("no") };
            vec![part.name.as_str().into(), runs, part.refused.as_deref().unwrap_or_default().into()]
        }),
    ));
    for signal in &found.signals {
        let count = signal.value.as_array().map_or(0, Vec::len);
        text.push_str(&format!("{} has {count} entries\n", signal.name));
    }
    text.push_str("\nthe parts themselves: -o yaml\n");
    text
}

fn versions(world: &World) -> String {
    let versions: Vec<String> =
        world.iter().map(|(origin, point)| format!("{origin}-{}-{}", point.epoch, point.revision)).collect();
    if versions.is_empty() { "nothing yet".into() } else { versions.join(", ") }
}
