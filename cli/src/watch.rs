//! `tombolo get -w`: what stands, and every change as it comes, until one has seen enough.
//!
//! A watch outlives its connection: when it breaks, or the control plane restarts, it is taken up where it
//! ended.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use api::shapes::{Resume, WatchEvent};
use model::kinds::Kind;
use serde_json::Value;
use tokio::time;

use crate::client::{Client, Lines, encode};
use crate::columns;
use crate::failure::Failure;
use crate::kind::{self, with_query};
use crate::output::{Cell, Columns, Format, Ordered, Out, Tone, yaml};

/// Between two attempts to take it up again.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(
    kind: &'static Kind,
    path: &str,
    query: &[String],
    client: &Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let mut shown = Shown { kind, standing: Vec::new(), columns: None, known: BTreeSet::new() };
    let mut from: Option<Resume> = None;
    let mut begun = false;
    // An outage is told once, and its end.
    let mut broken = false;
    loop {
        let mut query = query.to_vec();
        query.push("watch=true".into());
        query.extend(from.iter().map(|from| format!("from={}", encode(&from.to_string()))));
        let ended = match client.lines(&with_query(path, &query)).await {
            Ok(mut lines) => {
                begun = true;
                if std::mem::take(&mut broken) {
                    out.note("connected again")?;
                }
                follow(&mut lines, &mut shown, &mut from, out).await
            }
            Err(failure) => Err(failure),
        };
        match ended {
            // Whoever never came through has another problem than a broken connection.
            Err(failure @ Failure::Unreachable { .. }) if begun => {
                if !std::mem::replace(&mut broken, true) {
                    out.note(failure.to_string().lines().next().unwrap_or_default())?;
                    out.note("  trying again until it comes back")?;
                }
                time::sleep(AGAIN).await;
            }
            Err(failure) => return Err(failure),
            Ok(()) => time::sleep(AGAIN).await,
        }
    }
}

/// Until the server ends it.
async fn follow(
    lines: &mut Lines<'_>,
    shown: &mut Shown,
    from: &mut Option<Resume>,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    while let Some(line) = lines.next().await? {
        let event: WatchEvent<Value> = serde_json::from_str(&line).map_err(|_| lines.foreign())?;
        shown.event(&event, &line, out)?;
        match event {
            WatchEvent::Put { resume: Some(resume), .. }
            | WatchEvent::Gone { resume: Some(resume), .. }
            | WatchEvent::Bookmark { resume } => *from = Some(resume),
            WatchEvent::Compacted => *from = None,
            WatchEvent::Put { .. } | WatchEvent::Gone { .. } => {}
        }
    }
    Ok(())
}

/// What was shown so far, as far as the next line depends on it.
struct Shown {
    kind: &'static Kind,
    /// Until all that stands is told, the widths of the columns are not known.
    standing: Vec<Value>,
    columns: Option<Columns>,
    /// By `owner/namespace/mesh/name`.
    known: BTreeSet<String>,
}

impl Shown {
    fn event(&mut self, event: &WatchEvent<Value>, line: &str, out: &mut Out<'_>) -> Result<(), Failure> {
        match out.format {
            // Programs hear everything, where to take it up again included.
            Format::Json => out.print(&format!("{line}\n")),
            Format::Yaml => match event {
                WatchEvent::Put { document, .. } => out.print(&format!("{}---\n", yaml(&Ordered(document))?)),
                _ => Ok(()),
            },
            Format::Name => match event {
                WatchEvent::Put { document, .. } | WatchEvent::Gone { document, .. } => {
                    out.print(&format!("{}\n", kind::reference(self.kind.name, &columns::name(document))))
                }
                _ => Ok(()),
            },
            Format::Table | Format::Wide => self.table(event, out),
        }
    }

    fn table(&mut self, event: &WatchEvent<Value>, out: &mut Out<'_>) -> Result<(), Failure> {
        let wide = out.format == Format::Wide;
        match event {
            WatchEvent::Compacted => {
                out.note("too many changes at once: here is everything anew")?;
                self.columns = None;
                self.known.clear();
            }
            WatchEvent::Put { document, .. } if self.columns.is_none() => {
                self.standing.push(document.clone())
            }
            WatchEvent::Bookmark { .. } if self.columns.is_none() => {
                let standing = std::mem::take(&mut self.standing);
                let rows: Vec<Vec<Cell>> =
                    standing.iter().map(|document| columns::row(self.kind, document, wide)).collect();
                let mut header = columns::header(self.kind, wide);
                header.push("CHANGE");
                let columns = Columns::fitting(&header, &rows).roomy();
                out.print(&columns.whole(&rows))?;
                self.columns = Some(columns);
                self.known.extend(standing.iter().map(identity));
            }
            WatchEvent::Put { document, .. } => {
                let is_new = self.known.insert(identity(document));
                let change = if is_new { Tone::Good.cell("new") } else { Tone::Doubtful.cell("changed") };
                self.row(document, change, wide, out)?;
            }
            WatchEvent::Gone { document, .. } => {
                // It may be one that was never among those asked for.
                if self.known.remove(&identity(document)) {
                    self.row(document, Tone::Bad.cell("gone"), wide, out)?;
                }
            }
            WatchEvent::Bookmark { .. } => {}
        }
        Ok(())
    }

    fn row(&self, document: &Value, change: Cell, wide: bool, out: &mut Out<'_>) -> Result<(), Failure> {
        let Some(columns) = &self.columns else { return Ok(()) };
        let mut row = columns::row(self.kind, document, wide);
        row.push(change);
        out.print(&columns.line(&row))
    }
}

fn identity(document: &Value) -> String {
    let status = &document["status"];
    let mesh = &status["labels"]["tombolo.io/mesh"];
    let parts = [&status["origin"], &status["namespace"], mesh].map(columns::text);
    format!("{}/{}", parts.join("/"), columns::name(document))
}
