//! What a program is told from outside: a flag counts before its `TOMBOLO_` variable, that before the file of
//! `--config`, and that before the default.
//!
//! The file is YAML. Its keys are the program's flags: `data-dir: /var/lib/tombolo`. What it says is put in
//! the place of the flags that nobody gave, so that one reader judges it all; a mistake is told with its line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error, Parser};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_saphyr::Spanned;

const CONFIG: &str = "config";
const CONFIG_VARIABLE: &str = "TOMBOLO_CONFIG";

const ORDER: &str = "\
A flag counts before its variable, that before the file of --config, and that before the default.
The file is YAML, and its keys are the flags: 'log-format: json'.";

/// The options of this process; ends it with usage where they are wrong, and for --help and --version.
pub fn parse<O: Parser>() -> O {
    let variable = |name: &str| std::env::var_os(name);
    read(std::env::args_os().collect(), variable).unwrap_or_else(|error| error.exit())
}

/// `variable` reads the environment. The reader of flags looks at that of the process by itself: here it is
/// told only which settings of the file do not count.
fn read<O: Parser>(mut args: Vec<OsString>, variable: impl Fn(&str) -> Option<OsString>) -> Result<O, Error> {
    let mut command = O::command().arg(
        Arg::new(CONFIG)
            .long(CONFIG)
            .env(CONFIG_VARIABLE)
            .value_name("FILE")
            .help("A YAML file with settings, by the names of these flags"),
    );
    if command.get_after_help().is_none() {
        command = command.after_help(ORDER);
    }
    let file = given(&args, CONFIG).or_else(|| variable(CONFIG_VARIABLE)).map(PathBuf::from);
    let mut places = Vec::new();
    if let Some(file) = &file {
        let wrong = |line: u64, reason: &str| at(&command, file, line, reason);
        for setting in settings(file).map_err(|mistake| wrong(mistake.line, &mistake.reason))? {
            let Setting { line, flag, value } = setting;
            let Some(known) = settable(&command).find(|known| known.get_long() == Some(&flag)) else {
                let known: Vec<&str> = settable(&command).filter_map(Arg::get_long).collect();
                return Err(wrong(
                    line,
                    &format!("'{flag}' is no setting here; there are {}", known.join(", ")),
                ));
            };
            let is_told = |name: &OsStr| name.to_str().is_some_and(|name| variable(name).is_some());
            if given(&args, &flag).is_some() || known.get_env().is_some_and(is_told) {
                continue;
            }
            args.push(format!("--{flag}={value}").into());
            places.push((format!("--{flag}"), line));
        }
    }
    let told = |error: Error| {
        place_of(&error, &places)
            .zip(file.as_ref())
            .map(|(line, file)| {
                let text = error.to_string();
                let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                at(&command, file, line, reason)
            })
            .unwrap_or(error)
    };
    let mut matches = command.clone().try_get_matches_from(args).map_err(told)?;
    O::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command.clone()))
}

/// What a file may say.
fn settable(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_id() != CONFIG && arg.get_action().takes_values())
}

/// The value of a flag on the command line.
fn given(args: &[OsString], flag: &str) -> Option<OsString> {
    let flag = format!("--{flag}");
    args.iter().enumerate().find_map(|(index, arg)| {
        let arg = arg.to_str()?;
        if arg == flag {
            return Some(args.get(index + 1).cloned().unwrap_or_default());
        }
        arg.strip_prefix(&flag)?.strip_prefix('=').map(OsString::from)
    })
}

/// The line of the setting of which a reader of flags complains.
fn place_of(error: &Error, places: &[(String, u64)]) -> Option<u64> {
    let text = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(text) => text,
        _ => return None,
    };
    let flag = text.split_whitespace().next()?;
    places.iter().find(|(known, _)| known == flag).map(|(_, line)| *line)
}

fn at(command: &Command, file: &Path, line: u64, reason: &str) -> Error {
    let file = file.display();
    let place = if line == 0 { format!("{file}") } else { format!("{file}:{line}") };
    command.clone().error(ErrorKind::ValueValidation, format!("{place}: {reason}"))
}

struct Setting {
    line: u64,
    flag: String,
    value: String,
}

struct Mistake {
    /// Zero where it is of the whole file.
    line: u64,
    reason: String,
}

fn settings(file: &Path) -> Result<Vec<Setting>, Mistake> {
    let text = fs::read_to_string(file).map_err(|error| Mistake { line: 0, reason: error.to_string() })?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let settings: Settings = serde_saphyr::from_str(&text).map_err(|error| {
        let reason = error.without_snippet().to_string();
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        Mistake { line: error.location().map_or(0, |at| at.line()), reason }
    })?;
    Ok(settings.0)
}

/// A map of settings that knows their lines.
struct Settings(Vec<Setting>);

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings, one a line: 'flag: value'")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Vec::new();
                while let Some((flag, value)) = map.next_entry::<Spanned<String>, Scalar>()? {
                    settings.push(Setting { line: flag.referenced.line(), flag: flag.value, value: value.0 });
                }
                Ok(Settings(settings))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A value as it would stand behind a flag.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar(flag.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "tombolo-test", group(clap::ArgGroup::new("source").required(true).args(["zone", "table"])))]
    struct Options {
        /// The zone
        #[arg(long, env = "TOMBOLO_TEST_ZONE", requires = "data_dir")]
        zone: Option<String>,
        #[arg(long)]
        table: Option<PathBuf>,
        #[arg(long, env = "TOMBOLO_TEST_DATA_DIR", value_name = "DIR")]
        data_dir: Option<PathBuf>,
        #[arg(long, default_value = "127.0.0.1:1")]
        address: SocketAddr,
        #[arg(long, default_value_t = 1)]
        workers: usize,
    }

    fn with(file: &str, args: &[&str], variables: &[&str]) -> Result<Options, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        fs::write(&path, file).unwrap();
        let mut words = vec![OsString::from("tombolo-test"), "--config".into(), path.clone().into()];
        words.extend(args.iter().map(OsString::from));
        let variable = |name: &str| variables.contains(&name).then(OsString::new);
        read(words, variable).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "x.yaml"))
    }

    #[test]
    fn a_flag_counts_before_a_variable_that_before_the_file_and_that_before_the_default() {
        let file = "# what it is\nzone: east\ndata-dir: /var/lib/tombolo\naddress: 127.0.0.1:7\n";
        let found = with(file, &["--address=127.0.0.1:8"], &[]).unwrap();
        assert_eq!((found.zone.as_deref(), found.workers), (Some("east"), 1));
        assert_eq!((found.data_dir, found.address.port()), (Some("/var/lib/tombolo".into()), 8));
        assert_eq!(with(&format!("{file}workers: 4"), &[], &[]).unwrap().workers, 4);
        // Its variable is read by the reader of flags, from the environment of the process.
        let found = with("table: t\nzone: east\ndata-dir: d", &[], &["TOMBOLO_TEST_ZONE"]).unwrap();
        assert_eq!(found.zone, None);
        assert!(
            with("", &[], &[]).unwrap_err().contains("<--zone <ZONE>|--table <TABLE>>"),
            "an empty file says nothing"
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (file, want) in [
            (
                "zone: east\nadress: 127.0.0.1:7\n",
                "x.yaml:2: 'adress' is no setting here; there are zone, table",
            ),
            ("zone: a\ndata-dir: d\naddress: nowhere\n", "x.yaml:3: invalid value 'nowhere' for '--address"),
            ("zone: a\ndata-dir: d\nworkers: -1\n", "x.yaml:3: "),
            ("zone: a\nworkers: [1]\n", "x.yaml:2: "),
            ("zone: a\nzone: b\n", "x.yaml:2: "),
            ("config: y\n", "x.yaml:1: 'config' is no setting here"),
            ("zone: a\n  b: [\n", "x.yaml:2: "),
            ("- zone\n", "x.yaml:1: "),
        ] {
            let error = with(file, &[], &[]).unwrap_err();
            assert!(error.starts_with(&format!("error: {want}")), "{file}: {error}");
        }
        let error = read::<Options>(["t", "--config=/no/such/file"].map(OsString::from).into(), |_| None);
        assert!(error.unwrap_err().to_string().starts_with("error: /no/such/file: "));
    }

    #[test]
    fn help_names_variables_defaults_and_the_file() {
        let error = with("", &["--help"], &[]).unwrap_err();
        for word in ["TOMBOLO_TEST_ZONE", "TOMBOLO_CONFIG", "[default: 127.0.0.1:1]", "A flag counts before"]
        {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
