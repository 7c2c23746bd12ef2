//! `tombolo zone`: how the zones are, and whether an origin that was put back is believed.

use std::process::ExitCode;
use std::time::Duration;

use api::shapes::{AcceptRequest, Connection, Hold, Page, ZoneOverview};
use clap::Subcommand;
use http::Method;
use model::Origin;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Cell, Out, Tone, ago, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// All zones: whether they are heard of, and how their proxies are
    List,
    /// Believe an origin again whose store was put back
    ///
    /// Asked of who holds: a zone's API for 'global', and for the zone itself where its proxies hold it; the
    /// global's for a zone. Without --epoch it only shows what would be lost.
    Accept {
        /// 'global' or the name of a zone
        origin: Origin,
        /// The epoch to accept, as it was shown
        #[arg(long)]
        epoch: Option<u64>,
    },
}

pub(crate) async fn run(
    command: ZoneCommand,
    client: Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    match command {
        ZoneCommand::List => list(client, out).await,
        ZoneCommand::Accept { origin, epoch } => accept(&origin, epoch, client, out).await,
    }
}

async fn list(client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let zones: Page<ZoneOverview> = client.get("/zones/_overview").await?;
    if zones.items.is_empty() && out.is_for_people() {
        out.note("no zone has joined; 'tombolo token zone --zone NAME' makes a token for one")?;
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = zones.items.iter().map(|zone| zone.name.as_str()).collect();
    out.show_named(&names, &zones, || rows(&zones.items))?;
    Ok(ExitCode::SUCCESS)
}

async fn accept(
    origin: &Origin,
    epoch: Option<u64>,
    client: Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    if let Some(epoch) = epoch {
        let body = serde_json::to_string(&AcceptRequest { epoch }).expect("a number is JSON");
        let answer = client.ask::<Hold>(Method::POST, &format!("/holds/{origin}"), Some(body)).await?;
        let accepted = format!("epoch {epoch} of {origin} counts as soon as {origin} sends it again\n");
        out.show(&answer.body, || accepted)?;
        return Ok(ExitCode::SUCCESS);
    }
    let holds: Page<Hold> = client.get("/holds").await?;
    let Some(hold) = holds.items.into_iter().find(|hold| hold.origin == *origin) else {
        return Err(Failure::usage(
            format!("nothing of {origin} is held back here"),
            "ask who holds: a zone's API for 'global' or for its own proxies, the global's API for a zone",
        ));
    };
    out.show(&hold, || held(&hold))?;
    Ok(ExitCode::SUCCESS)
}

fn held(hold: &Hold) -> String {
    let Hold { origin, reason, have, offered, added, changed, lost, keys } = hold;
    let mut text = format!(
        "{origin} is held at {have}, since {reason}\n\
         it offers {offered}: {added} documents would come, {changed} change, {lost} go\n"
    );
    if !keys.is_empty() {
        text.push_str("\nthose that change or go:\n");
        text.extend(keys.iter().map(|key| format!("  {key}\n")));
        let more = (changed + lost).saturating_sub(keys.len() as u64);
        if more > 0 {
            text.push_str(&format!("  and {more} more\n"));
        }
    }
    text.push_str(&format!(
        "\nto let that happen: tombolo zone accept {origin} --epoch {}\n",
        offered.point.epoch
    ));
    text
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
