//! `tombolo delete`: a document goes.

use std::process::ExitCode;

use api::duration::Span;
use api::shapes::Written;
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::kind::{self, DocumentArgs};
use crate::output::Out;
use crate::wait;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    document: DocumentArgs,
    /// Wait until no proxy runs it any more; 30s unless said otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_name = "TIME")]
    wait: Option<Span>,
}

pub(crate) async fn run(args: DeleteArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let (kind, path) = args.document.find()?;
    let name = &args.document.name;
    let written: Written = client.ask(Method::DELETE, &path, None).await?.body;
    for warning in &written.warnings {
        out.note(&format!("warning: {warning}"))?;
    }
    out.show_named(&[kind::reference(kind.name, name)], &written, || {
        let revision = written.revision.as_ref().map(|revision| format!(" ({revision})")).unwrap_or_default();
        format!("deleted {kind} {name}{revision}\n")
    })?;
    match (args.wait, &written.revision) {
        (Some(limit), Some(revision)) => wait::report(&client, revision, limit.0, false, out).await,
        _ => Ok(ExitCode::SUCCESS),
    }
}
