//! What surrounds a command line: variables, and who looks at the output.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr, stdout};
use std::path::PathBuf;

/// Handed in, so that command lines can be run side by side.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Those that count here are `TOMBOLO_*`, `XDG_CONFIG_HOME`, `HOME`, `NO_COLOR` and `TERM`.
    pub variables: BTreeMap<String, String>,
    /// Whether a person reads standard output at a terminal.
    pub out_is_terminal: bool,
    /// The same of standard error.
    pub err_is_terminal: bool,
}

impl Environment {
    /// That of this process. Variables that are no text are as if they were not there.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            out_is_terminal: stdout().is_terminal(),
            err_is_terminal: stderr().is_terminal(),
        }
    }

    /// An empty variable is as if it were not there.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a terminal is to be written to in colours (see <https://no-color.org>).
    pub(crate) fn likes_colours(&self) -> bool {
        self.variable("NO_COLOR").is_none() && self.variable("TERM") != Some("dumb")
    }

    /// Where people keep their settings; none without a home.
    pub(crate) fn config_folder(&self) -> Option<PathBuf> {
        // The specification says that a relative one is to be ignored.
        let given = self.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = given.or_else(|| Some(PathBuf::from(self.variable("HOME")?).join(".config")))?;
        Some(folder.join("tombolo"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Environment { variables, ..Environment::default() }
    }

    #[test]
    fn settings_are_where_people_keep_them() {
        for (variables, want) in [
            (&[("HOME", "/home/a")][..], Some("/home/a/.config/tombolo")),
            (&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/etc/a")], Some("/etc/a/tombolo")),
            (&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "here")], Some("/home/a/.config/tombolo")),
            (&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "")], Some("/home/a/.config/tombolo")),
            (&[], None),
        ] {
            assert_eq!(environment(variables).config_folder(), want.map(PathBuf::from), "{variables:?}");
        }
    }

    #[test]
    fn who_wants_no_colours_gets_none() {
        for (variables, want) in [
            (&[][..], true),
            (&[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (&[("NO_COLOR", "1")], false),
            (&[("TERM", "dumb")], false),
        ] {
            assert_eq!(environment(variables).likes_colours(), want, "{variables:?}");
        }
    }
}
