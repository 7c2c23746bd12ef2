//! `tombolo kinds`: the kinds of documents there are, and how they are called.

use std::process::ExitCode;

use model::kinds::{self, Author};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Out, table};

#[derive(Serialize)]
struct KnownKind {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    #[serde(rename = "meshScoped")]
    is_mesh_scoped: bool,
    author: &'static str,
}

pub(crate) fn run(out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let known = kinds::all().iter().map(|kind| KnownKind {
        kind: kind.name,
        plural: kind.plural,
        short: kind.short,
        is_mesh_scoped: kind.is_mesh_scoped(),
        author: match kind.author {
            Author::Global => "global",
            Author::Zone => "zone",
            Author::Both => "global or zone",
            Author::Generated => "made by zones",
        },
    });
    let known: Vec<KnownKind> = known.collect();
    let names: Vec<&str> = known.iter().map(|kind| kind.kind).collect();
    out.show_named(&names, &known, || {
        table(
            &["KIND", "PLURAL", "SHORT", "IN A MESH", "WRITTEN ON"],
            known.iter().map(|kind| {
                let in_mesh = if kind.is_mesh_scoped { "yes" } else { "no" };
                [kind.kind, kind.plural, kind.short, in_mesh, kind.author].map(Into::into).to_vec()
            }),
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
