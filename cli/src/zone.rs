//! `tombolo zone`: how the zones are.

use std::process::ExitCode;
use std::time::Duration;

use api::shapes::{Connection, Page, ZoneOverview};
use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Out, ago, table};

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
    out.show(&zones, || rows(&zones.items))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(zones: &[ZoneOverview]) -> String {
    table(
        &["NAME", "STATE", "LAST HEARD", "CURRENT", "LATE", "UNKNOWN"],
        zones.iter().map(|zone| {
            let state = match zone.state {
                Connection::Connected => "connected",
                Connection::Stale => "stale",
                Connection::Offline => "offline",
            };
            let heard = zone.age_ms.map_or_else(|| "never".into(), |age| ago(Duration::from_millis(age)));
            let mut row = vec![zone.name.to_string(), state.into(), heard];
            let proxies = zone.proxies;
            row.extend([proxies.current, proxies.late, proxies.unknown].map(|count| count.to_string()));
            row
        }),
    )
}
