//! `tombolo zone`: how the zones are.

use std::process::ExitCode;
use std::time::Duration;

use api::shapes::{Connection, Page, ZoneOverview};
use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Cell, Out, Tone, ago, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// All zones: whether they are heard of, and how their proxies are
    List,
}

pub(crate) async fn run(
    command: ZoneCommand,
    client: Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let ZoneCommand::List = command;
    let zones: Page<ZoneOverview> = client.get("/zones/_overview").await?;
    if zones.items.is_empty() && out.is_for_people() {
        out.note("no zone has joined; 'tombolo token zone --zone NAME' makes a token for one")?;
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = zones.items.iter().map(|zone| zone.name.as_str()).collect();
    out.show_named(&names, &zones, || rows(&zones.items))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(zones: &[ZoneOverview]) -> String {
    table(
        &["NAME", "STATE", "LAST HEARD", "CURRENT", "LATE", "UNKNOWN"],
        zones.iter().map(|zone| {
            let heard = zone.age_ms.map_or_else(|| "never".into(), |age| ago(Duration::from_millis(age)));
            let mut row: Vec<Cell> = vec![zone.name.as_str().into(), state(zone.state), heard.into()];
            let proxies = zone.proxies;
            row.push(proxies.current.to_string().into());
            row.extend([proxies.late, proxies.unknown].map(|count| Tone::Bad.count(count)));
            row
        }),
    )
}

pub(crate) fn state(state: Connection) -> Cell {
    match state {
        Connection::Connected => Tone::Good.cell("connected"),
        Connection::Stale => Tone::Doubtful.cell("stale"),
        Connection::Offline => Tone::Bad.cell("offline"),
    }
}
