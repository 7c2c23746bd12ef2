//! What a program is told from outside: a flag counts before its `TOMBOLO_` variable, that before the file of
//! `--config`, and that before the default.
//!
//! The file is YAML. Its keys are the program's flags: `data-dir: /var/lib/tombolo`. What variables and file say is put in
//! the place of the flags that nobody gave, so that one reader judges it all; a mistake is told with its variable or line.
//! A setting that cannot stand beside one of a source before it says nothing. An empty variable is as if it were not there.

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

const WIDTH: usize = 100;

const ORDER: &str = "\
A flag counts before its variable, that before the file of --config, and that before the default.
The file is YAML, and its keys are the flags: 'log-format: json'.";

/// The options of this process; ends it with usage where they are wrong, and for --help and --version.
pub fn parse<O: Parser>() -> O {
    let variable = |name: &str| std::env::var_os(name);
    read(std::env::args_os().collect(), variable).unwrap_or_else(|error| error.exit())
}

/// What `--help` says of a program where nobody set anything, as wide as it is where it is not a terminal.
pub fn help<O: Parser>() -> String {
    let mut command = described::<O>().term_width(WIDTH).mut_args(|arg| arg.hide_env_values(true));
    command.render_long_help().to_string()
}

/// `variable` reads the environment. What counts of it, and of the file, is put behind the flags that were given, so that the
/// reader of flags looks at nothing else.
fn read<O: Parser>(mut args: Vec<OsString>, variable: impl Fn(&str) -> Option<OsString>) -> Result<O, Error> {
    // Whoever sets a variable to nothing, as files of containers do, does not set it.
    let variable = |name: &OsStr| variable(name.to_str()?).filter(|value| !value.is_empty());
    let mut command = described::<O>();
    let file = given(&args, CONFIG).or_else(|| variable(CONFIG_VARIABLE.as_ref())).map(PathBuf::from);
    let from_file = match &file {
        Some(file) => of_file(&command, file)?,
        None => Vec::new(),
    };
    let mut places = Vec::new();
    for weaker in [of_environment(&command, variable), from_file] {
        let stronger: Vec<&Arg> = settable(&command).filter(|arg| is_given(&args, arg)).collect();
        let counts = |flag: &str| {
            let arg = settable(&command).find(|arg| arg.get_long() == Some(flag));
            arg.is_none_or(|arg| !stronger.iter().any(|told| excludes(&command, told, arg)))
        };
        for Setting { place, flag, value } in weaker.into_iter().filter(|setting| counts(&setting.flag)) {
            let mut word = OsString::from(format!("--{flag}="));
            word.push(value);
            args.push(word);
            places.push((format!("--{flag}"), place));
        }
    }
    // Help shows the variables, and everything else has looked at them already.
    if !args.iter().any(|arg| arg == "--help" || arg == "-h") {
        command = command.mut_args(|arg| arg.env(None::<&'static str>));
    }
    let told = |error: Error| match place_of(&error, &places) {
        Some(place) => {
            let text = error.to_string();
            let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            at(&command, place, reason)
        }
        None => error,
    };
    let mut matches = command.clone().try_get_matches_from(args).map_err(told)?;
    O::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command.clone()))
}

/// The flags of a program, with the one that all have, and what is to be known beside them.
fn described<O: Parser>() -> Command {
    let command = O::command().arg(
        Arg::new(CONFIG)
            .long(CONFIG)
            .env(CONFIG_VARIABLE)
            .value_name("FILE")
            .help("A YAML file with settings, by the names of these flags"),
    );
    let text = match command.get_after_long_help() {
        Some(own) => format!("{own}\n\n{ORDER}"),
        None => ORDER.to_owned(),
    };
    command.after_help(ORDER).after_long_help(text)
}

fn is_given(args: &[OsString], arg: &Arg) -> bool {
    arg.get_long().is_some_and(|flag| given(args, flag).is_some())
}

/// Whether a setting says nothing any more where another one was told by who counts before: it is the same, or one of
/// which only one can be.
fn excludes(command: &Command, told: &Arg, arg: &Arg) -> bool {
    let conflicts = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
    };
    let are_alternatives = command.get_groups().any(|group| {
        let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
        !group.clone().is_multiple() && has(told) && has(arg)
    });
    told.get_id() == arg.get_id() || conflicts(told, arg) || conflicts(arg, told) || are_alternatives
}

fn of_environment(command: &Command, variable: impl Fn(&OsStr) -> Option<OsString>) -> Vec<Setting> {
    let setting = |arg: &Arg| {
        let (name, flag) = (arg.get_env()?, arg.get_long()?.to_owned());
        Some(Setting { place: name.to_string_lossy().into_owned(), flag, value: variable(name)? })
    };
    settable(command).filter_map(setting).collect()
}

fn of_file(command: &Command, file: &Path) -> Result<Vec<Setting>, Error> {
    let place = |line: u64| match line {
        0 => file.display().to_string(),
        line => format!("{}:{line}", file.display()),
    };
    let written = settings(file).map_err(|mistake| at(command, &place(mistake.line), &mistake.reason))?;
    let known: Vec<&str> = settable(command).filter_map(Arg::get_long).collect();
    let setting = |Written { line, flag, value }| {
        if !known.contains(&flag.as_str()) {
            let reason = format!("'{flag}' is no setting here; there are {}", known.join(", "));
            return Err(at(command, &place(line), &reason));
        }
        Ok(Setting { place: place(line), flag, value: value.into() })
    };
    written.into_iter().map(setting).collect()
}

/// What another source than the command line says.
struct Setting {
    /// For people: a variable, or a line of a file.
    place: String,
    flag: String,
    value: OsString,
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

/// The place of the setting of which a reader of flags complains.
fn place_of<'a>(error: &Error, places: &'a [(String, String)]) -> Option<&'a str> {
    let text = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(text) => text,
        _ => return None,
    };
    let flag = text.split_whitespace().next()?;
    places.iter().find(|(known, _)| known == flag).map(|(_, place)| place.as_str())
}

fn at(command: &Command, place: &str, reason: &str) -> Error {
    command.clone().error(ErrorKind::ValueValidation, format!("{place}: {reason}"))
}

struct Written {
    line: u64,
    flag: String,
    value: String,
}

struct Mistake {
    /// Zero where it is of the whole file.
    line: u64,
    reason: String,
}

fn settings(file: &Path) -> Result<Vec<Written>, Mistake> {
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
struct Settings(Vec<Written>);

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
                    settings.push(Written { line: flag.referenced.line(), flag: flag.value, value: value.0 });
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
        #[arg(long, env = "TOMBOLO_TEST_WORKERS", default_value_t = 1)]
        workers: usize,
    }

    fn with(file: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Options, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        fs::write(&path, file).unwrap();
        let mut words = vec![OsString::from("tombolo-test"), "--config".into(), path.clone().into()];
        words.extend(args.iter().map(OsString::from));
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        read(words, variable).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "x.yaml"))
    }

    #[test]
    fn a_flag_counts_before_a_variable_that_before_the_file_and_that_before_the_default() {
        let file = "# what it is\nzone: east\ndata-dir: /var/lib/tombolo\naddress: 127.0.0.1:7\n";
        let found = with(file, &["--address=127.0.0.1:8"], &[]).unwrap();
        assert_eq!((found.zone.as_deref(), found.workers), (Some("east"), 1));
        assert_eq!((found.data_dir, found.address.port()), (Some("/var/lib/tombolo".into()), 8));
        assert_eq!(with(&format!("{file}workers: 4"), &[], &[]).unwrap().workers, 4);
        let variables = [("TOMBOLO_TEST_ZONE", "west"), ("TOMBOLO_TEST_DATA_DIR", "")];
        let found = with(file, &[], &variables).unwrap();
        assert_eq!(found.zone.as_deref(), Some("west"));
        assert_eq!(found.data_dir, Some("/var/lib/tombolo".into()), "an empty variable says nothing");
        let found = with(file, &["--zone", "north"], &variables).unwrap();
        assert_eq!(found.zone.as_deref(), Some("north"));
        assert!(
            with("", &[], &[]).unwrap_err().contains("<--zone <ZONE>|--table <TABLE>>"),
            "an empty file says nothing"
        );
    }

    #[test]
    fn what_cannot_stand_beside_a_stronger_source_says_nothing() {
        let found = with("zone: east\ndata-dir: d", &["--table=t"], &[]).unwrap();
        assert_eq!((found.zone, found.table), (None, Some("t".into())));
        let found = with("table: t", &[], &[("TOMBOLO_TEST_ZONE", "west"), ("TOMBOLO_TEST_DATA_DIR", "d")]);
        assert_eq!(found.unwrap().table, None);
        let found = with("", &["--table=t"], &[("TOMBOLO_TEST_ZONE", "west")]);
        assert_eq!(found.unwrap().zone, None);
        let error = with("zone: east\ndata-dir: d\ntable: t", &[], &[]).unwrap_err();
        assert!(error.contains("cannot be used with"), "one source says both: {error}");
    }

    #[test]
    fn a_mistake_of_a_variable_is_told_with_its_name() {
        let error = with("", &["--table=t"], &[("TOMBOLO_TEST_WORKERS", "many")]).unwrap_err();
        assert!(
            error.starts_with("error: TOMBOLO_TEST_WORKERS: invalid value 'many' for '--workers"),
            "{error}"
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
