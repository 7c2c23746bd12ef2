//! The `tombolo` command: what people do with a mesh, one file per subcommand.
//!
//! Results go to standard output, everything else to standard error: what happened in one line, what to do
//! in the next. Exit codes: 0 it worked, 1 it failed or was refused, 2 the command line was wrong.

mod client;
mod failure;
mod kind;
mod output;
mod source;
mod trust;

mod apply;
mod delete;
mod demo_command;
mod get;
mod inspect;
mod token;
mod wait;
mod zone;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::Client;
use failure::Failure;
use output::{Format, Out};

/// Runs one command line, its first word being the program's name. Reads standard input only for `-f -`.
pub async fn run<A, O, E>(args: A, out: &mut O, err: &mut E) -> ExitCode
where
    A: IntoIterator<Item: Into<OsString> + Clone>,
    O: Write + Send,
    E: Write + Send,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Help and the version come this way as well; they are no mistakes.
        Err(help) if !help.use_stderr() => return told(write!(out, "{help}"), 0),
        Err(usage) => return told(write!(err, "{usage}"), failure::USAGE),
    };
    match cli.command.run(&cli.connection, &mut Out { out, err, format: cli.output }).await {
        Ok(code) => code,
        // Whoever reads our output has gone, as `head` does: nothing is wrong.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => told(write!(err, "{failure}"), failure.exit_code()),
    }
}

fn told(written: io::Result<()>, code: u8) -> ExitCode {
    // Where nobody can be told, the code alone must say it.
    let _ = written;
    code.into()
}

/// Tombolo joins Kubernetes clusters and racks of machines into one service mesh.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// How results are shown: tables for people, the others for programs.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// Which control plane, and how it is known to be the right one.
#[derive(Clone, Debug, Args)]
struct Connection {
    /// The API of a control plane, of the global or of a zone.
    #[arg(
        long,
        global = true,
        help_heading = "Control plane",
        env = "TOMBOLO_ADDRESS",
        default_value = "https://127.0.0.1:5681"
    )]
    address: String,
    /// A file with the token of an administrator: `admin.token` in the data folder of the control plane.
    #[arg(long, global = true, help_heading = "Control plane", env = "TOMBOLO_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A file with the certificate authority of the control plane: `ca.crt` in its data folder.
    #[arg(long, global = true, help_heading = "Control plane", env = "TOMBOLO_CA")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or change documents from files, folders or standard input
    Apply(apply::ApplyArgs),
    /// Show documents
    Get(get::GetArgs),
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
    /// Make a token with which a zone, a sidecar or an ingress joins
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
    async fn run(self, connection: &Connection, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
        // Only the demo needs no control plane: it brings its own.
        let client = || Client::new(connection);
        match self {
            Self::Apply(args) => apply::run(args, client()?, out).await,
            Self::Get(args) => get::run(args, client()?, out).await,
            Self::Delete(args) => delete::run(args, client()?, out).await,
            Self::Wait(args) => wait::run(args, client()?, out).await,
            Self::Inspect(command) => inspect::run(command, client()?, out).await,
            Self::Zone(command) => zone::run(command, client()?, out).await,
            Self::Token(command) => token::run(command, client()?, out).await,
            Self::Demo(args) => demo_command::run(args, out).await,
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
