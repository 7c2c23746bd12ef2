//! Which control plane a command speaks with, and how it is known to be the right one.
//!
//! Flags come first, then `TOMBOLO_ADDRESS`, `TOMBOLO_TOKEN_FILE` and `TOMBOLO_CA`, then the context. Whoever
//! names a context on the command line means it: the variables do not count then.

use std::path::PathBuf;

use clap::Args;

use crate::contexts::{self, Contexts};
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Connection {
    /// The control plane to ask, by the name that 'tombolo context set' gave it [env: TOMBOLO_CONTEXT]
    /// [default: what 'tombolo context use' chose]
    #[arg(long, global = true, help_heading = "Control plane", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The API of a control plane, of the global or of a zone, such as https://127.0.0.1:5681
    /// [env: TOMBOLO_ADDRESS]
    #[arg(long, global = true, help_heading = "Control plane", value_name = "URL")]
    pub(crate) address: Option<String>,
    /// A file with the token of an administrator: admin.token in the data folder of the control plane
    /// [env: TOMBOLO_TOKEN_FILE]
    #[arg(long, global = true, help_heading = "Control plane", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the certificate authority of the control plane: ca.crt in its data folder
    /// [env: TOMBOLO_CA]
    #[arg(long, global = true, help_heading = "Control plane", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// Where to go, and with what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) token_file: PathBuf,
    pub(crate) ca: PathBuf,
}

const DEFAULT_ADDRESS: &str = "https://127.0.0.1:5681";

impl Connection {
    pub(crate) fn target(&self, environment: &Environment) -> Result<Target, Failure> {
        let said = self.said(environment);
        let named =
            self.context.clone().or_else(|| Some(environment.variable("TOMBOLO_CONTEXT")?.to_owned()));
        let whole = said.address.is_some() && said.token_file.is_some() && said.ca.is_some();
        // Nobody who says everything needs a file to be in order.
        let context = match (named, whole) {
            (None, true) => None,
            (named, _) => {
                let file = contexts::path(environment);
                let contexts = match (&named, file) {
                    (_, Ok(path)) => Contexts::read(&path)?,
                    (Some(_), Err(failure)) => return Err(failure),
                    (None, Err(_)) => Contexts::default(),
                };
                let name = named.or_else(|| contexts.current.clone());
                name.map(|name| contexts.get(&name).cloned()).transpose()?
            }
        };
        let Some(context) = context else { return said.without_context() };
        Ok(Target {
            address: said.address.unwrap_or(context.address),
            token_file: said.token_file.unwrap_or(context.token_file),
            ca: said.ca.unwrap_or(context.ca),
        })
    }

    /// The flags, and the variables where there are none.
    fn said(&self, environment: &Environment) -> Said {
        let variable = |name| environment.variable(name).filter(|_| self.context.is_none());
        Said {
            address: self.address.clone().or_else(|| variable("TOMBOLO_ADDRESS").map(str::to_owned)),
            token_file: self.token_file.clone().or_else(|| variable("TOMBOLO_TOKEN_FILE").map(PathBuf::from)),
            ca: self.ca.clone().or_else(|| variable("TOMBOLO_CA").map(PathBuf::from)),
        }
    }
}

struct Said {
    address: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Said {
    fn without_context(self) -> Result<Target, Failure> {
        let missing = match (&self.address, &self.token_file, &self.ca) {
            (None, None, None) => {
                return Err(Failure::usage(
                    "no control plane is chosen",
                    "tombolo context set NAME --address https://HOST:5681 --token-file DIR/admin.token --ca DIR/ca.crt\n  \
                     tombolo context use NAME\n  \
                     (DIR is the data folder of the control plane; or give these flags with each command)",
                ));
            }
            (_, None, _) => ("no token is given", "name its file with --token-file or TOMBOLO_TOKEN_FILE"),
            (_, _, None) => (
                "the authority of the control plane is not given",
                "name its certificate file with --ca or TOMBOLO_CA",
            ),
            _ => ("", ""),
        };
        match (self.token_file, self.ca) {
            (Some(token_file), Some(ca)) => {
                Ok(Target { address: self.address.unwrap_or_else(|| DEFAULT_ADDRESS.into()), token_file, ca })
            }
            _ => Err(Failure::usage(missing.0, format!("{}, or choose a context with --context", missing.1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "current: east\ncontexts:\n  east: {address: 'https://east:1', tokenFile: east.token, ca: /e.crt}\n  \
                        west: {address: 'https://west:1', tokenFile: /w.token, ca: /w.crt}\n";

    #[test]
    fn flags_come_before_variables_and_both_before_the_context() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/tombolo");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("contexts.yaml"), FILE).unwrap();
        let target = |flags: &[(&str, &str)], variables: &[(&str, &str)]| {
            let flag =
                |name| flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| (*value).to_owned());
            let connection = Connection {
                context: flag("context"),
                address: flag("address"),
                token_file: flag("token-file").map(PathBuf::from),
                ca: flag("ca").map(PathBuf::from),
            };
            let mut environment = Environment::default();
            environment.variables.insert("HOME".into(), home.path().to_str().unwrap().into());
            environment.variables.extend(variables.iter().map(|(k, v)| ((*k).into(), (*v).into())));
            connection.target(&environment).map(|target| {
                let token = target.token_file.file_name().unwrap().to_str().unwrap().to_owned();
                format!("{} {token} {}", target.address, target.ca.display())
            })
        };
        let address = ("TOMBOLO_ADDRESS", "https://variable:1");
        let token = ("TOMBOLO_TOKEN_FILE", "/v.token");
        for (flags, variables, want) in [
            (&[][..], &[][..], "https://east:1 east.token /e.crt"),
            (&[("context", "west")], &[], "https://west:1 w.token /w.crt"),
            (&[], &[("TOMBOLO_CONTEXT", "west")], "https://west:1 w.token /w.crt"),
            (&[("context", "east")], &[("TOMBOLO_CONTEXT", "west")], "https://east:1 east.token /e.crt"),
            (&[], &[address, token], "https://variable:1 v.token /e.crt"),
            (&[], &[("TOMBOLO_CONTEXT", "west"), address], "https://variable:1 w.token /w.crt"),
            (&[("address", "https://flag:1")], &[address], "https://flag:1 east.token /e.crt"),
            (&[("context", "west")], &[address, token], "https://west:1 w.token /w.crt"),
            (&[("context", "west"), ("address", "https://flag:1")], &[], "https://flag:1 w.token /w.crt"),
        ] {
            assert_eq!(target(flags, variables).unwrap(), want, "{flags:?} {variables:?}");
        }
        assert!(target(&[("context", "north")], &[]).is_err());
        // Whoever says everything does not need the file.
        std::fs::write(folder.join("contexts.yaml"), "nonsense").unwrap();
        let all = [("address", "https://flag:1"), ("token-file", "/f.token"), ("ca", "/f.crt")];
        assert_eq!(target(&all, &[]).unwrap(), "https://flag:1 f.token /f.crt");
        assert!(target(&all[..2], &[]).is_err());
    }
}
