//! `tombolo delete`: a document goes.

use std::process::ExitCode;

use api::duration::Span;
use api::shapes::Written;
use clap::Args;
use http::Method;

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::get::with_query;
use crate::kind;
use crate::output::Out;
use crate::wait;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its kind: mesh, meshtrafficpermission, mtp, ... (see 'tombolo kinds')
    kind: String,
    name: String,
    /// Its mesh, for kinds that are in one.
    #[arg(short, long, default_value = "default")]
    mesh: String,
    /// The zone that owns it; 'global' for the global.
    #[arg(long)]
    zone: Option<String>,
    /// Its namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// Wait until no proxy runs it any more; 30s unless said otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_name = "TIME")]
    wait: Option<Span>,
}

pub(crate) async fn run(args: DeleteArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let kind = kind::parse(&args.kind)?;
    let path = kind::document(kind, &args.mesh, &args.name)?;
    let mut query = Vec::new();
    query.extend(args.zone.iter().map(|zone| format!("zone={}", encode(zone))));
    query.extend(args.namespace.iter().map(|namespace| format!("namespace={}", encode(namespace))));
    let written: Written = client.ask(Method::DELETE, &with_query(&path, &query), None).await?.body;
    for warning in &written.warnings {
        out.note(&format!("warning: {warning}"))?;
    }
    out.show_named(&[kind::reference(kind.name, &args.name)], &written, || {
        let revision = written.revision.as_ref().map(|revision| format!(" ({revision})")).unwrap_or_default();
        format!("deleted {kind} {}{revision}\n", args.name)
    })?;
    match (args.wait, &written.revision) {
        (Some(limit), Some(revision)) => wait::report(&client, revision, limit.0, false, out).await,
        _ => Ok(ExitCode::SUCCESS),
    }
}
