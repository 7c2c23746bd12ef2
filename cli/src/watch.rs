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
        // Programs hear everything, where to take it up again included.
        if out.format == Format::Json {
            return out.print(&format!("{line}\n"));
        }
        let change = match event {
            WatchEvent::Put { document, .. } if self.known.insert(identity(document)) => {
                Change::New(document)
            }
            WatchEvent::Put { document, .. } => Change::Changed(document),
            WatchEvent::Gone { document, .. } if self.known.remove(&identity(document)) => {
                Change::Gone(document)
            }
            // It may be one that was never among those asked for.
            WatchEvent::Gone { .. } => return Ok(()),
            WatchEvent::Compacted => {
                self.known.clear();
                Change::Compacted
            }
            WatchEvent::Bookmark { .. } => Change::Told,
        };
        match out.format {
            Format::Yaml => change.yaml(out),
            Format::Name => change.name(self.kind, out),
            Format::Table | Format::Wide | Format::Json => self.table(change, out),
        }
    }

    fn table(&mut self, change: Change<'_>, out: &mut Out<'_>) -> Result<(), Failure> {
        let wide = out.format == Format::Wide;
        let (document, word) = match change {
            Change::Compacted => {
                self.columns = None;
                return out.note(ANEW);
            }
            Change::Told if self.columns.is_none() => return self.stands(wide, out),
            Change::Told => return Ok(()),
            Change::New(document) | Change::Changed(document) if self.columns.is_none() => {
                self.standing.push(document.clone());
                return Ok(());
            }
            Change::New(document) => (document, Tone::Good.cell("new")),
            Change::Changed(document) => (document, Tone::Doubtful.cell("changed")),
            Change::Gone(document) => (document, Tone::Bad.cell("gone")),
        };
        let Some(columns) = &self.columns else { return Ok(()) };
        let mut row = match change {
            Change::Gone(_) => columns::gone_row(self.kind, document, wide),
            _ => columns::row(self.kind, document, wide),
        };
        row.push(word);
        out.print(&columns.line(&row))
    }

    fn stands(&mut self, wide: bool, out: &mut Out<'_>) -> Result<(), Failure> {
        let standing = std::mem::take(&mut self.standing);
        let rows: Vec<Vec<Cell>> =
            standing.iter().map(|document| columns::row(self.kind, document, wide)).collect();
        let mut header = columns::header(self.kind, wide);
        header.push("CHANGE");
        let columns = Columns::fitting(&header, &rows).roomy();
        out.print(&columns.whole(&rows))?;
        self.columns = Some(columns);
        Ok(())
    }
}

/// What an event is to who reads on.
#[derive(Clone, Copy)]
enum Change<'a> {
    New(&'a Value),
    Changed(&'a Value),
    Gone(&'a Value),
    /// All that stands follows, and nothing else does.
    Compacted,
    /// All that stands was told.
    Told,
}

const ANEW: &str = "too many changes at once: here is everything anew";

impl Change<'_> {
    /// Each a document of its own. What is gone is marked in its status; 'event: compacted' is no document of anybody,
    /// and says that what was told before counts no more.
    fn yaml(self, out: &mut Out<'_>) -> Result<(), Failure> {
        let text = match self {
            Self::New(document) | Self::Changed(document) => yaml(&Ordered(document))?,
            Self::Gone(document) => {
                let mut document = document.clone();
                document["status"]["gone"] = true.into();
                yaml(&Ordered(&document))?
            }
            Self::Compacted => yaml(&WatchEvent::<Value>::Compacted)?,
            Self::Told => return Ok(()),
        };
        out.print(&format!("{text}---\n"))
    }

    fn name(self, kind: &Kind, out: &mut Out<'_>) -> Result<(), Failure> {
        let reference = |document| kind::reference(kind.name, &columns::name(document));
        match self {
            Self::New(document) | Self::Changed(document) => out.print(&format!("{}\n", reference(document))),
            Self::Gone(document) => out.print(&format!("{} gone\n", reference(document))),
            Self::Compacted => out.note(ANEW),
            Self::Told => Ok(()),
        }
    }
}

fn identity(document: &Value) -> String {
    let status = &document["status"];
    let mesh = &status["labels"]["tombolo.io/mesh"];
    let parts = [&status["origin"], &status["namespace"], mesh].map(columns::text);
    format!("{}/{}", parts.join("/"), columns::name(document))
}
