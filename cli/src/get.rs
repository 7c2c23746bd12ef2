//! `tombolo get`: documents as they stand.

use std::process::ExitCode;

use api::shapes::Page;
use clap::Args;
use model::kinds::Kind;
use serde_json::Value;

use crate::client::{Client, encode};
use crate::columns;
use crate::failure::Failure;
use crate::kind::{self, OwnerArgs, with_query};
use crate::output::{Format, Ordered, Out, table, yaml};
use crate::watch;

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to show: meshes, meshservices, msvc, ... (see 'tombolo kinds')
    kind: String,
    /// Only this one
    name: Option<String>,
    /// The mesh: 'default' for one document, all of them for a list.
    #[arg(short, long)]
    mesh: Option<String>,
    #[command(flatten)]
    owner: OwnerArgs,
    /// Only documents with this label; may be given several times.
    #[arg(short, long = "label", value_name = "KEY=VALUE", conflicts_with = "name")]
    labels: Vec<String>,
    /// Stay, and show every change as it comes; ends with Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: GetArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let kind = kind::parse(&args.kind)?;
    let mut query = args.owner.query();
    if args.watch {
        query.extend(args.labels.iter().map(|label| format!("label={}", encode(label))));
        let path = match &args.name {
            Some(name) => kind::document(kind, args.mesh.as_deref().unwrap_or("default"), name)?,
            None => kind::path(kind, args.mesh.as_deref()),
        };
        return watch::run(kind, &path, &query, &client, out).await;
    }
    if let Some(name) = &args.name {
        let path = kind::document(kind, args.mesh.as_deref().unwrap_or("default"), name)?;
        let document: Value = client.get(&with_query(&path, &query)).await?;
        let wide = out.format == Format::Wide;
        out.show_named(&[kind::reference(kind.name, name)], &Ordered(&document), || {
            rows(kind, std::slice::from_ref(&document), wide)
        })?;
        return Ok(ExitCode::SUCCESS);
    }

    query.extend(args.labels.iter().map(|label| format!("label={}", encode(label))));
    query.push("size=1000".into());
    let path = kind::path(kind, args.mesh.as_deref());
    let mut documents: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = query.clone();
        query.extend(after.iter().map(|after| format!("after={}", encode(after))));
        let page: Page<Value> = client.get(&with_query(&path, &query)).await?;
        documents.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if out.format == Format::Yaml {
        // One document after the other, so that the result can be applied.
        let texts: Vec<String> =
            documents.iter().map(|document| yaml(&Ordered(document))).collect::<Result<_, _>>()?;
        out.out.write_all(texts.join("---\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if documents.is_empty() && out.is_for_people() {
        out.note(&format!("there are no {}", kind.plural))?;
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> =
        documents.iter().map(|document| kind::reference(kind.name, &columns::name(document))).collect();
    let items: Vec<Ordered<'_>> = documents.iter().map(Ordered).collect();
    let wide = out.format == Format::Wide;
    out.show_named(&names, &Page { items, next: None }, || rows(kind, &documents, wide))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(kind: &Kind, documents: &[Value], wide: bool) -> String {
    let documents = documents.iter().map(|document| columns::row(kind, document, wide));
    table(&columns::header(kind, wide), documents)
}
