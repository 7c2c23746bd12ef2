//! What can go wrong with a command: one line what happened, one line what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use api::shapes::Problem;

use crate::output::Tone;

/// The command line was wrong.
pub(crate) const USAGE: u8 = 2;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that does not exist.
    Usage {
        what: String,
        todo: String,
    },
    /// A file that the command line names.
    File {
        path: PathBuf,
        source: io::Error,
    },
    /// A file of our own.
    Unwritable {
        path: PathBuf,
        source: io::Error,
    },
    /// No answer came, or one that is none of ours.
    Unreachable {
        what: String,
        todo: String,
    },
    /// The control plane refused.
    Refused(Box<Problem>),
    /// Everything was said already.
    Told,
    Output(io::Error),
    Demo(anyhow::Error),
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), todo: todo.into() }
    }

    pub(crate) fn unreachable(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Unreachable { what: what.into(), todo: todo.into() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            _ => 1,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { what, todo } | Self::Unreachable { what, todo } => lines(f, what, todo),
            Self::File { path, source } => {
                lines(f, &format!("cannot read {}: {source}", path.display()), "give a file that can be read")
            }
            Self::Unwritable { path, source } => lines(
                f,
                &format!("cannot write {}: {source}", path.display()),
                "make its folder one in which you may write",
            ),
            Self::Refused(problem) => refused(f, problem),
            Self::Told => Ok(()),
            Self::Output(source) => writeln!(f, "{} cannot write the result: {source}", error()),
            Self::Demo(source) => writeln!(f, "{} {source:#}", error()),
        }
    }
}

fn lines(f: &mut fmt::Formatter<'_>, what: &str, todo: &str) -> fmt::Result {
    writeln!(f, "{} {what}", error())?;
    writeln!(f, "  {todo}")
}

fn error() -> String {
    Tone::Bad.paint("error:")
}

fn refused(f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
    writeln!(f, "{} {}", error(), problem.detail)?;
    if problem.invalid_parameters.len() > 1 {
        for mistake in &problem.invalid_parameters {
            writeln!(f, "  {}: {}", mistake.field, mistake.reason)?;
        }
    }
    for choice in &problem.choices {
        match &choice.namespace {
            None => writeln!(f, "  --zone {}", choice.zone)?,
            Some(namespace) => writeln!(f, "  --zone {} --namespace {namespace}", choice.zone)?,
        }
    }
    // Where the detail does not say already what to do.
    match problem.status {
        401 => writeln!(
            f,
            "  give the token of this control plane with --token-file, or look at 'tombolo context show'"
        ),
        404 => writeln!(f, "  look with 'tombolo get' which there are, and at --mesh, --zone and --context"),
        409 if problem.choices.is_empty() => writeln!(f, "  try again"),
        500 => writeln!(f, "  look at the log of the control plane"),
        503 => writeln!(f, "  try again in a moment"),
        _ => Ok(()),
    }
}
