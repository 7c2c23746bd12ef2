//! `~/.config/tombolo/contexts.yaml`: the control planes that a person speaks with, by name.
//!
//! ```yaml
//! current: east
//! contexts:
//!   east:
//!     address: https://127.0.1.1:5681
//!     tokenFile: /etc/tombolo/east.token
//!     ca: /etc/tombolo/east.crt
//! ```
//!
//! The token itself never stands here, only where it is. Paths that are not absolute begin at the folder of
//! this file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use runtime::files;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::failure::Failure;

/// Where one control plane is, and how it and we are known there.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) address: String,
    pub(crate) token_file: PathBuf,
    pub(crate) ca: PathBuf,
}

#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// The file of the person who types.
pub(crate) fn path(environment: &Environment) -> Result<PathBuf, Failure> {
    let folder = environment.config_folder().ok_or_else(|| {
        Failure::usage("nobody knows where contexts are kept", "set HOME or XDG_CONFIG_HOME to a folder")
    })?;
    Ok(folder.join("contexts.yaml"))
}

impl Contexts {
    /// Where there is no file there are no contexts.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Failure::File { path: path.to_owned(), source }),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut found: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let place =
                error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
            let reason = error.without_snippet().to_string();
            let reason = reason.lines().next().unwrap_or_default();
            Failure::usage(
                format!("{}{place}: {reason}", path.display()),
                "put that line right; a context has address, tokenFile and ca",
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for context in found.contexts.values_mut() {
            context.token_file = folder.join(&context.token_file);
            context.ca = folder.join(&context.ca);
        }
        Ok(found)
    }

    /// For our eyes only (0600): it tells where tokens are.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |source| Failure::Unwritable { path: path.to_owned(), source };
        let text = serde_saphyr::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        files::create_private_dir(folder).map_err(failed)?;
        files::write_private(path, text.as_bytes()).map_err(failed)
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| self.unknown(name))
    }

    pub(crate) fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let todo = if known.is_empty() {
            format!(
                "make it: tombolo context set {name} --address https://HOST:5681 --token-file FILE --ca FILE"
            )
        } else {
            format!("there are {}", known.join(", "))
        };
        Failure::usage(format!("there is no context '{name}'"), todo)
    }
}
