//! The `tombolo` command: what people do with a mesh, one file per subcommand.
//!
//! Results go to standard output, everything else to standard error: what happened in one line, what to do
//! in the next. Exit codes: 0 it worked, 1 it failed or was refused, 2 the command line was wrong.

pub mod environment;

mod client;
mod columns;
mod completion;
mod connection;
mod contexts;
mod failure;
mod kind;
mod output;
mod source;
mod trust;

mod apply;
mod context;
mod delete;
mod demo_command;
mod describe;
mod get;
mod inspect;
mod kinds_command;
mod status;
mod token;
mod wait;
mod watch;
mod zone;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::Client;
use connection::Connection;
use failure::Failure;
use output::{Colours, Format, Out};

pub use environment::Environment;

/// Runs one command line, its first word being the program's name. Reads standard input only for `-f -`.
pub async fn run<A, O, E>(args: A, environment: &Environment, out: &mut O, err: &mut E) -> ExitCode
where
    A: IntoIterator<Item: Into<OsString> + Clone>,
    O: Write + Send,
    E: Write + Send,
{
    let likes = environment.likes_colours();
    let colours =
        Colours { out: likes && environment.out_is_terminal, err: likes && environment.err_is_terminal };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Help and the version come this way as well; they are no mistakes.
        Err(help) if !help.use_stderr() => {
            return told(out, &help.render().ansi().to_string(), colours.out, 0);
        }
        Err(usage) => {
            return told(err, &usage.render().ansi().to_string(), colours.err, failure::USAGE);
        }
    };
    let mut shown = Out { out, err, format: cli.output, colours };
    match cli.command.run(&cli.connection, environment, &mut shown).await {
        Ok(code) => code,
        // Whoever reads our output has gone, as `head` does: nothing is wrong.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => told(err, &failure.to_string(), colours.err, failure.exit_code()),
    }
}

fn told(to: &mut (impl Write + ?Sized), text: &str, colours: bool, code: u8) -> ExitCode {
    // Where nobody can be told, the code alone must say it.
    let _ = to.write_all(output::seen(text, colours).as_bytes());
    code.into()
}

/// Tombolo joins Kubernetes clusters and racks of machines into one service mesh.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, max_term_width = 110, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked; of 'wait': applied; of 'status': all is well
  1  it failed or was refused; of 'wait': not applied; of 'status': something is not well
  2  the command line was wrong

Contexts are kept in ~/.config/tombolo/contexts.yaml (XDG_CONFIG_HOME is respected).
Colours are shown at a terminal only; NO_COLOR switches them off.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or change documents from files, folders or standard input
    Apply(apply::ApplyArgs),
    /// Show documents
    Get(get::GetArgs),
    /// Show all that is known of one document: what it says, whose it is, who runs it
    Describe(kind::DocumentArgs),
    /// Say on one page whether the mesh is well, and what is not
    ///
    /// Ends with 0 if all is well, with 1 if not.
    Status,
    /// Delete a document
    Delete(delete::DeleteArgs),
    /// Wait until every proxy runs a revision, or say who does not
    Wait(wait::WaitArgs),
    /// Show what a proxy was told and what it runs
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Look at the zones
    #[command(subcommand)]
    Zone(zone::ZoneCommand),
    /// The kinds of documents, and their short names
    Kinds,
    /// Name the control planes that you speak with, and choose among them
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print what a shell needs to complete command lines
    ///
    /// In ~/.bashrc: source <(tombolo completion bash). In ~/.zshrc, after compinit: source <(tombolo completion
    /// zsh). In ~/.config/fish/config.fish: tombolo completion fish | source.
    Completion { shell: completion::Shell },
    /// What completion scripts ask
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Make a token with which a zone, a sidecar or an ingress joins, or revoke one
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Start a whole mesh with two zones on this machine and show what it does
    Demo(DemoArgs),
}

/// What `tombolo demo` is asked for.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Prove each promise against the running mesh, print one line each, and end.
    #[arg(long)]
    pub check: bool,
}

impl Command {
    async fn run(
        self,
        connection: &Connection,
        environment: &Environment,
        out: &mut Out<'_>,
    ) -> Result<ExitCode, Failure> {
        let client = || Client::new(&connection.target(environment)?);
        match self {
            Self::Apply(args) => apply::run(args, client()?, out).await,
            Self::Get(args) => get::run(args, client()?, out).await,
            Self::Describe(args) => describe::run(args, client()?, out).await,
            Self::Status => status::run(client()?, out).await,
            Self::Delete(args) => delete::run(args, client()?, out).await,
            Self::Wait(args) => wait::run(args, client()?, out).await,
            Self::Inspect(command) => inspect::run(command, client()?, out).await,
            Self::Zone(command) => zone::run(command, client()?, out).await,
            Self::Token(command) => token::run(command, client()?, out).await,
            Self::Completion { shell } => completion::script(shell, out),
            Self::Complete { words } => completion::complete(&words, environment, out).await,
            Self::Kinds => kinds_command::run(out),
            Self::Context(command) => context::run(command, connection, environment, out),
            // A whole mesh is large, and no other command has to carry its size.
            Self::Demo(args) => Box::pin(demo_command::run(args, environment, out)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
