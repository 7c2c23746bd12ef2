//! `tombolo context`: the control planes that one speaks with, by name. Nothing here asks any of them.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use crate::client;
use crate::connection::Connection;
use crate::contexts::{self, Context, Contexts};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output::{Out, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// All contexts; a star marks the one in use
    List,
    /// Use a context from now on, where no other is named
    Use { name: String },
    /// Make or change a context, by --address, --token-file and --ca
    Set { name: String },
    /// One context; without a name that in use
    Show { name: Option<String> },
    /// Forget a context; the files it names stay
    Delete { name: String },
}

pub(crate) fn run(
    command: ContextCommand,
    flags: &Connection,
    environment: &Environment,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let path = contexts::path(environment)?;
    let mut contexts = Contexts::read(&path)?;
    match command {
        ContextCommand::List => list(&contexts, out)?,
        ContextCommand::Use { name } => {
            contexts.get(&name)?;
            contexts.current = Some(name.clone());
            contexts.write(&path)?;
            out.note(&format!("'{name}' is used from now on"))?;
        }
        ContextCommand::Set { name } => set(name, flags, contexts, &path, out)?,
        ContextCommand::Show { name } => {
            let name = match name.or_else(|| contexts.current.clone()) {
                Some(name) => name,
                None => return Err(Failure::usage("no context is in use", "tombolo context use NAME")),
            };
            let context = contexts.get(&name)?;
            let is_current = contexts.current.as_ref() == Some(&name);
            out.show_named(&[&name], &Listed { name: &name, is_current, context }, || {
                let Context { address, token_file, ca } = context;
                let (token_file, ca) = (token_file.display(), ca.display());
                format!(
                    "name        {name}\naddress     {address}\ntoken file  {token_file}\nca          {ca}\n"
                )
            })?;
        }
        ContextCommand::Delete { name } => {
            if contexts.contexts.remove(&name).is_none() {
                return Err(contexts.unknown(&name));
            }
            contexts.current = contexts.current.filter(|current| *current != name);
            contexts.write(&path)?;
            out.note(&format!("'{name}' is forgotten; the files it named are still there"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is not said stays as it was.
fn set(
    name: String,
    flags: &Connection,
    mut contexts: Contexts,
    path: &Path,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
        return Err(Failure::usage(
            format!("'{name}' is no name for a context"),
            "use one word, such as east",
        ));
    }
    let before = contexts.contexts.get(&name);
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| Failure::File { path: path.to_owned(), source })
    };
    let address = flags.address.as_deref().map(client::base).transpose()?;
    let address = address.or_else(|| Some(before?.address.clone()));
    let token_file = flags.token_file.as_deref().map(absolute).transpose()?;
    let token_file = token_file.or_else(|| Some(before?.token_file.clone()));
    let ca = flags.ca.as_deref().map(absolute).transpose()?.or_else(|| Some(before?.ca.clone()));
    let (Some(address), Some(token_file), Some(ca)) = (address, token_file, ca) else {
        return Err(Failure::usage(
            format!("'{name}' is new: it needs --address, --token-file and --ca"),
            format!(
                "tombolo context set {name} --address https://HOST:5681 --token-file DIR/admin.token --ca DIR/ca.crt"
            ),
        ));
    };
    for file in [&token_file, &ca] {
        if !file.exists() {
            out.note(&format!("note: {} is not there yet", file.display()))?;
        }
    }
    let is_current = contexts.current.as_ref() == Some(&name);
    contexts.contexts.insert(name.clone(), Context { address, token_file, ca });
    contexts.write(path)?;
    let hint = if is_current { String::new() } else { format!("; to use it: tombolo context use {name}") };
    out.note(&format!("'{name}' is set{hint}"))
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    #[serde(rename = "current")]
    is_current: bool,
    #[serde(flatten)]
    context: &'a Context,
}

fn list(contexts: &Contexts, out: &mut Out<'_>) -> Result<(), Failure> {
    let listed: Vec<Listed<'_>> = contexts
        .contexts
        .iter()
        .map(|(name, context)| Listed { name, is_current: contexts.current.as_ref() == Some(name), context })
        .collect();
    if listed.is_empty() && out.is_for_people() {
        return out.note(
            "there are no contexts; make one with 'tombolo context set NAME --address ... --token-file ... --ca ...'",
        );
    }
    let names: Vec<&str> = listed.iter().map(|context| context.name).collect();
    out.show_named(&names, &listed, || {
        table(
            &["", "NAME", "ADDRESS", "TOKEN FILE", "CA"],
            listed.iter().map(|listed| {
                let Context { address, token_file, ca } = listed.context;
                let star = if listed.is_current { "*" } else { "" };
                vec![
                    star.into(),
                    listed.name.into(),
                    address.as_str().into(),
                    token_file.display().to_string().into(),
                    ca.display().to_string().into(),
                ]
            }),
        )
    })
}
