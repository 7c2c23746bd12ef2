//! `tombolo apply`: documents from files become documents of the mesh.
//!
//! Everything is validated before anything is written, so that a mistake in the last file does not leave half
//! of a change behind. Meshes go first, since the others need them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use api::duration::Span;
use api::shapes::{InvalidParameter, Problem, Written};
use clap::Args;
use http::Method;
use model::Version;
use model::document::{self, Location, Tree};
use model::kinds::{self, Kind};
use model::labels;
use serde::Serialize;

use crate::client::Client;
use crate::failure::Failure;
use crate::kind;
use crate::output::{Out, table};
use crate::source::{self, Body};
use crate::wait;

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A file, a folder, or '-' for standard input; may be given several times.
    #[arg(short, long = "filename", required = true, num_args = 1.., value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// Only validate.
    #[arg(long)]
    dry_run: bool,
    /// Wait until every proxy runs the change; 30s unless said otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_name = "TIME")]
    wait: Option<Span>,
}

pub(crate) async fn run(args: ApplyArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let (mut documents, mut mistakes) = collect(&args.filename)?;
    if documents.is_empty() && mistakes.is_empty() {
        return Err(Failure::usage("there are no documents in what was given", "look at -f"));
    }
    let mut standing = Vec::new();
    for document in &documents {
        match document.put::<Written>(&client, true).await {
            Ok(answer) => standing.push((answer.status == 201, answer.tag, answer.body.warnings)),
            Err(Failure::Refused(problem)) => match document.mistakes_of(&problem) {
                Some(found) => mistakes.extend(found),
                None => return Err(Failure::Refused(problem)),
            },
            Err(failure) => return Err(failure),
        }
    }
    if !mistakes.is_empty() {
        return refuse(mistakes, "nothing was applied", out);
    }

    let mut results = Vec::new();
    if args.dry_run {
        for (document, (is_new, _, warnings)) in documents.iter().zip(standing) {
            let outcome = if is_new { Outcome::WouldCreate } else { Outcome::WouldChange };
            results.push(document.result(outcome, None, warnings));
        }
        show(&results, out)?;
        return Ok(ExitCode::SUCCESS);
    }

    let mut failures = 0;
    for (document, (_, before, _)) in documents.drain(..).zip(standing) {
        match document.put::<Written>(&client, false).await {
            Ok(answer) => {
                let revision = answer.body.revision;
                let unchanged = revision.as_ref().map(Version::to_string) == before;
                let outcome = match answer.status {
                    201 => Outcome::Created,
                    _ if unchanged => Outcome::Unchanged,
                    _ => Outcome::Changed,
                };
                results.push(document.result(outcome, revision, answer.body.warnings));
            }
            Err(Failure::Refused(problem)) => {
                failures += 1;
                match document.mistakes_of(&problem) {
                    Some(found) => mistakes.extend(found),
                    None => {
                        out.note(&format!("{} {} was refused", document.place(), document.describe()))?;
                        out.note(Failure::Refused(problem).to_string().trim_end())?;
                    }
                }
            }
            Err(failure) => {
                show(&results, out)?;
                return Err(failure);
            }
        }
    }
    show(&results, out)?;
    if !mistakes.is_empty() {
        return refuse(mistakes, "the others were applied", out);
    }
    if failures > 0 {
        return Err(Failure::Told);
    }
    let latest = results.into_iter().filter_map(|result| result.revision).max_by_key(|version| version.point);
    match (args.wait, latest) {
        (Some(limit), Some(latest)) => wait::report(&client, &latest, limit.0, false, out).await,
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A document of a file, and where it goes.
struct Document {
    file: String,
    at: Location,
    kind: &'static Kind,
    mesh: Option<String>,
    name: String,
    path: String,
    body: Body,
}

impl Document {
    async fn put<T: serde::de::DeserializeOwned>(
        &self,
        client: &Client,
        dry_run: bool,
    ) -> Result<crate::client::Answer<T>, Failure> {
        let path = if dry_run { format!("{}?dryRun=true", self.path) } else { self.path.clone() };
        client.ask(Method::PUT, &path, Some(self.body.json.clone())).await
    }

    /// The mistakes that the server found, where they stand in the file; none if it refused for another reason.
    fn mistakes_of(&self, problem: &Problem) -> Option<Vec<Mistake>> {
        if problem.status != 400 || problem.invalid_parameters.is_empty() {
            return None;
        }
        let mistake = |found: &InvalidParameter| Mistake {
            file: self.file.clone(),
            at: found.line.and_then(|line| self.body.place(line)).unwrap_or(self.at),
            field: found.field.clone(),
            reason: found.reason.clone(),
        };
        Some(problem.invalid_parameters.iter().map(mistake).collect())
    }

    fn place(&self) -> String {
        format!("{}:{}:", self.file, self.at)
    }

    fn describe(&self) -> String {
        format!("{} {}", self.kind, self.shown_name())
    }

    fn shown_name(&self) -> String {
        self.mesh.as_ref().map_or_else(|| self.name.clone(), |mesh| format!("{mesh}/{}", self.name))
    }

    fn result(&self, result: Outcome, revision: Option<Version>, warnings: Vec<String>) -> Applied {
        Applied {
            kind: self.kind.name,
            mesh: self.mesh.clone(),
            name: self.name.clone(),
            result,
            revision,
            warnings,
        }
    }
}

/// One mistake, as compilers show them.
#[derive(Debug)]
struct Mistake {
    file: String,
    at: Location,
    field: String,
    reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, field, reason } = self;
        if field.is_empty() {
            write!(f, "{file}:{at}: {reason}")
        } else {
            write!(f, "{file}:{at}: {field}: {reason}")
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Created,
    Changed,
    Unchanged,
    WouldCreate,
    WouldChange,
}

impl Outcome {
    fn words(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::WouldCreate => "would create",
            Self::WouldChange => "would change",
        }
    }
}

#[derive(Debug, Serialize)]
struct Applied {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<String>,
    name: String,
    result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Version>,
    warnings: Vec<String>,
}

/// All documents in the order in which they are to be written, and what is wrong with the others.
fn collect(paths: &[PathBuf]) -> Result<(Vec<Document>, Vec<Mistake>), Failure> {
    let (mut documents, mut mistakes) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for source in source::read(paths)? {
        let found = match document::parse_many(&source.text) {
            Ok(found) => found,
            Err(error) => {
                let at = Location { line: error.line, column: error.column };
                mistakes.push(Mistake { file: source.name, at, field: String::new(), reason: error.message });
                continue;
            }
        };
        for located in found {
            match identify(&source.name, &located.tree) {
                Ok(document) => {
                    if let Some(first) = seen.insert(document.path.clone(), document.place()) {
                        let reason = format!("{} stands already at {first}", document.describe());
                        let reason = reason.trim_end_matches(':').to_owned();
                        mistakes.push(Mistake {
                            file: document.file.clone(),
                            at: document.at,
                            field: String::new(),
                            reason,
                        });
                    }
                    documents.push(document);
                }
                Err(found) => mistakes.extend(found),
            }
        }
    }
    documents.sort_by_key(|document| rank(document.kind));
    Ok((documents, mistakes))
}

fn rank(kind: &Kind) -> u8 {
    match kind.name {
        "Mesh" => 0,
        "Zone" => 1,
        _ => 2,
    }
}

/// Finds out where a document goes. Whether it is valid is the server's to say, who may be newer than we.
fn identify(file: &str, tree: &Tree) -> Result<Document, Vec<Mistake>> {
    let mistake = |at: Location, field: &str, reason: String| Mistake {
        file: file.to_owned(),
        at,
        field: field.to_owned(),
        reason,
    };
    let is_kubernetes = tree.get("apiVersion").is_some();
    let (kind_field, head) =
        if is_kubernetes { ("kind", tree.get("metadata")) } else { ("type", Some(tree)) };
    let mut mistakes = Vec::new();

    let kind = match tree.text(kind_field) {
        Some(text) => {
            let kind = kinds::by_name(text);
            if kind.is_none() {
                let at = tree.get(kind_field).map_or(tree.at, |tree| tree.at);
                let known: Vec<&str> = kinds::all().iter().map(|kind| kind.name).collect();
                let reason = format!("'{text}' is not a known kind; there are {}", known.join(", "));
                mistakes.push(mistake(at, kind_field, reason));
            }
            kind
        }
        None => {
            mistakes.push(mistake(tree.at, kind_field, "must be given: the kind of the document".into()));
            None
        }
    };
    let name = head.and_then(|head| head.text("name"));
    match (name, kind) {
        (None, _) => mistakes.push(mistake(tree.at, "name", "must be given, as a text".into())),
        (Some(name), Some(kind)) => {
            // Such a name cannot stand in a path; all others are judged by the server.
            if let Err(error) = kind.parse_name(name) {
                let at = head.and_then(|head| head.get("name")).map_or(tree.at, |tree| tree.at);
                mistakes.push(mistake(at, "name", error.to_string()));
            }
        }
        (Some(_), None) => {}
    }
    let said = if is_kubernetes {
        let labels = head.and_then(|head| head.get("labels"));
        labels.and_then(|labels| labels.text(labels::MESH).or_else(|| labels.text("kuma.io/mesh")))
    } else {
        tree.text("mesh")
    };
    let mesh = said.unwrap_or("default");
    if let Err(error) = mesh.parse::<model::MeshName>() {
        let at = tree.get("mesh").map_or(tree.at, |tree| tree.at);
        mistakes.push(mistake(at, "mesh", error.to_string()));
    }
    let (Some(kind), Some(name), true) = (kind, name, mistakes.is_empty()) else {
        return Err(mistakes);
    };
    Ok(Document {
        file: file.to_owned(),
        at: tree.at,
        kind,
        mesh: kind.is_mesh_scoped().then(|| mesh.to_owned()),
        name: name.to_owned(),
        path: format!("{}/{name}", kind::path(kind, Some(mesh))),
        body: Body::of(tree),
    })
}

fn refuse(mut mistakes: Vec<Mistake>, rest: &str, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    // By place within each file; files stay in the order in which they were given.
    let mut files: Vec<String> = Vec::new();
    for mistake in &mistakes {
        if !files.contains(&mistake.file) {
            files.push(mistake.file.clone());
        }
    }
    mistakes.sort_by_key(|mistake| (files.iter().position(|file| *file == mistake.file), mistake.at));
    for mistake in &mistakes {
        out.note(&mistake.to_string())?;
    }
    let count = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        n => format!("{n} mistakes"),
    };
    out.note(&format!("error: {count}, {rest}"))?;
    Err(Failure::Told)
}

fn show(results: &[Applied], out: &mut Out<'_>) -> Result<(), Failure> {
    if results.is_empty() {
        return Ok(());
    }
    for result in results {
        for warning in &result.warnings {
            out.note(&format!("warning: {} {}: {warning}", result.kind, result.name))?;
        }
    }
    let names: Vec<String> =
        results.iter().map(|result| kind::reference(result.kind, &result.name)).collect();
    out.show_named(&names, &results, || {
        table(
            &["KIND", "NAME", "RESULT", "REVISION"],
            results.iter().map(|result| {
                let name = match &result.mesh {
                    Some(mesh) => format!("{mesh}/{}", result.name),
                    None => result.name.clone(),
                };
                let revision = result.revision.as_ref().map(Version::to_string).unwrap_or_default();
                vec![result.kind.into(), name.into(), result.result.words().into(), revision.into()]
            }),
        )
    })
}
