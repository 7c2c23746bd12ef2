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
    /// Asked of who holds: a zone's API for 'global', for the zone itself where its proxies hold it, and for whatever
    /// its proxies were told more of than it knows; the global's for a zone. Without --epoch it only shows what would
    /// be lost.
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
        let accepted = match answer.body.offered.point.revision {
            0 => format!("what was told of {origin} before counts no more\n"),
            _ => format!("epoch {epoch} of {origin} counts from now on\n"),
        };
        out.show(&answer.body, || accepted)?;
        return Ok(ExitCode::SUCCESS);
    }
    let holds: Page<Hold> = client.get("/holds").await?;
    let Some(hold) = holds.items.into_iter().find(|hold| hold.origin == *origin) else {
        return Err(Failure::usage(
            format!("nothing of {origin} is held back here"),
            "ask who holds: a zone's API for 'global' or for what its own proxies were told, the global's API for a zone",
        ));
    };
    out.show(&hold, || held(&hold))?;
    Ok(ExitCode::SUCCESS)
}

fn held(hold: &Hold) -> String {
    let Hold { origin, reason, have, offered, added, changed, lost, keys } = hold;
    let offers = match offered.point.revision {
        0 => "nothing is known of it here".to_owned(),
        _ => format!("known is {offered}"),
    };
    let mut text = format!(
        "{origin} is held at {have}, since {reason}\n\
         {offers}: {added} documents would come, {changed} change, {lost} go\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decides_about_an_origin_that_nobody_knows_here_sees_which_and_what_would_go() {
        let hold = Hold {
            origin: "west".parse().unwrap(),
            reason: "proxy default/web-1 was told more".into(),
            have: "west-1-50".parse().unwrap(),
            offered: "west-0-0".parse().unwrap(),
            added: 0,
            changed: 0,
            lost: 1,
            keys: vec!["trust of proxy default/web-1".into()],
        };
        assert_eq!(
            held(&hold),
            "west is held at west-1-50, since proxy default/web-1 was told more\n\
             nothing is known of it here: 0 documents would come, 0 change, 1 go\n\n\
             those that change or go:\n  trust of proxy default/web-1\n\n\
             to let that happen: tombolo zone accept west --epoch 0\n"
        );
    }
}
