//! `tombolo completion`: what a shell runs when somebody presses tab, and the answer to it.
//!
//! The scripts know nothing: they hand the words over to `tombolo __complete`, as kubectl's do, so that names
//! come from the control plane itself. Who cannot be asked in a moment adds nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use api::shapes::Page;
use clap::{Arg, Command, CommandFactory, ValueEnum};
use model::kinds;
use serde_json::Value;
use tokio::time;

use crate::Cli;
use crate::client::Client;
use crate::columns;
use crate::connection::Connection;
use crate::contexts::{self, Contexts};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::kind;
use crate::output::Out;

/// Nobody waits longer for a tab.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn script(shell: Shell, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    out.print(match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    })?;
    Ok(ExitCode::SUCCESS)
}

const BASH: &str = r#"# source <(tombolo completion bash)
_tombolo() {
  local IFS=$'\n' rest=${COMP_LINE:0:COMP_POINT} words=() word cut
  # Bash breaks words at = and : as well, which are parts of ours.
  for word in "${COMP_WORDS[@]:0:COMP_CWORD + 1}"; do
    if [[ ${#words[@]} -eq 0 || $rest == [[:space:]]* || -z $rest ]]; then
      rest=${rest#"${rest%%[![:space:]]*}"}
      words+=("$word")
    else
      words[-1]+=$word
    fi
    rest=${rest#"$word"}
  done
  COMPREPLY=($("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null))
  # It writes over its own last word, of which = and : are none.
  word=${COMP_WORDS[COMP_CWORD]}
  [[ $word == [=:] ]] && word=
  cut=${words[-1]%"$word"}
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
# Where there is nothing to say, the shell completes files.
complete -o default -F _tombolo tombolo
"#;

const ZSH: &str = r#"#compdef tombolo
# source <(tombolo completion zsh), after compinit
_tombolo() {
  local -a found
  found=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${found[*]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _tombolo tombolo
"#;

const FISH: &str = r#"# tombolo completion fish | source
function __tombolo_complete
  set -l words (commandline -opc)
  set -l found ($words[1] __complete -- $words[2..] (commandline -ct) 2>/dev/null)
  if test (count $found) -gt 0
    printf '%s\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c tombolo -f -a '(__tombolo_complete)'
"#;

/// Answers a script: one candidate a line. `words` are those after the program's name; the last is the one
/// that is being typed.
pub(crate) async fn complete(
    words: &[String],
    environment: &Environment,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let (typed, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let mut command = Cli::command();
    command.build();
    let asked = asked(&command, before, typed);
    // Of '--output=j' the value is to be found, and the word is what the shell writes.
    let (flag, typed) = value_of_flag(typed).unwrap_or(("", typed));
    let found = match asked.what {
        What::Words(words) => words,
        What::Contexts => contexts::path(environment)
            .and_then(|path| Contexts::read(&path))
            .map(|contexts| contexts.contexts.into_keys().collect())
            .unwrap_or_default(),
        What::Names { kind } => {
            let names = time::timeout(PATIENCE, names(&kind, &asked.flags, environment)).await;
            names.ok().and_then(Result::ok).unwrap_or_default()
        }
        What::Files => Vec::new(),
    };
    let lines: String =
        found.iter().filter(|word| word.starts_with(typed)).map(|word| format!("{flag}{word}\n")).collect();
    out.print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What would fit at the place of the last word.
#[derive(Debug, Eq, PartialEq)]
enum What {
    Words(Vec<String>),
    Contexts,
    /// Documents of a kind, by any of its words.
    Names {
        kind: String,
    },
    /// The shell knows better.
    Files,
}

/// `--output=` and `j` of `--output=j`.
fn value_of_flag(typed: &str) -> Option<(&str, &str)> {
    let end = typed.strip_prefix("--")?.find('=')? + "--=".len();
    Some(typed.split_at(end))
}

struct Asked {
    what: What,
    /// Those that were given, by id.
    flags: BTreeMap<String, String>,
}

fn asked(root: &Command, before: &[String], typed: &str) -> Asked {
    let (mut command, mut flags, mut positionals) = (root, BTreeMap::new(), Vec::new());
    let mut pending: Option<&Arg> = None;
    for word in before {
        if let Some(flag) = pending.take() {
            flags.insert(flag.get_id().to_string(), word.clone());
        } else if let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) {
            let (name, value) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let Some(found) = flag_of(command, name) else { continue };
            match value {
                Some(value) => drop(flags.insert(found.get_id().to_string(), value.to_owned())),
                None if takes_next(found) && (flag.starts_with('-') || flag.len() == 1) => {
                    pending = Some(found)
                }
                None => {}
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        } else {
            positionals.push(word.as_str());
        }
    }
    let what = match pending {
        Some(flag) => of_flag(flag),
        None if let Some((flag, _)) = value_of_flag(typed) => {
            let found =
                flag_of(command, flag.trim_end_matches('=')).filter(|arg| arg.get_action().takes_values());
            found.map_or(What::Words(Vec::new()), of_flag)
        }
        None if typed.starts_with('-') => What::Words(long_flags(command)),
        None if command.has_subcommands() => {
            let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            What::Words(
                subcommands.map(|sub| sub.get_name().to_owned()).filter(|name| name != "help").collect(),
            )
        }
        None => of_positional(command, &positionals),
    };
    Asked { what, flags }
}

fn flag_of<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| match name.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| name[1..].starts_with(short)),
    })
}

fn takes_next(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

fn long_flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
}

fn of_flag(flag: &Arg) -> What {
    let possible: Vec<String> =
        flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match flag.get_id().as_str() {
        _ if !possible.is_empty() => What::Words(possible),
        "context" => What::Contexts,
        "mesh" => What::Names { kind: "mesh".into() },
        "zone" => What::Names { kind: "zone".into() },
        "filename" | "token_file" | "ca" => What::Files,
        _ => What::Words(Vec::new()),
    }
}

fn of_positional(command: &Command, given: &[&str]) -> What {
    let Some(next) = command.get_positionals().nth(given.len()) else { return What::Words(Vec::new()) };
    let possible: Vec<String> =
        next.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match (next.get_id().as_str(), command.get_name(), given.first()) {
        _ if !possible.is_empty() => What::Words(possible),
        ("kind", _, _) => What::Words(kinds::all().iter().map(|kind| kind.plural.to_owned()).collect()),
        ("name", "dataplane", _) => What::Names { kind: "dataplane".into() },
        ("name", "use" | "set" | "show" | "delete", None) => What::Contexts,
        ("name", _, Some(kind)) => What::Names { kind: (*kind).to_owned() },
        _ => What::Words(Vec::new()),
    }
}

async fn names(
    kind: &str,
    flags: &BTreeMap<String, String>,
    environment: &Environment,
) -> Result<Vec<String>, Failure> {
    let flag = |name: &str| flags.get(name).cloned();
    let connection = Connection {
        context: flag("context"),
        address: flag("address"),
        token_file: flag("token_file").map(Into::into),
        ca: flag("ca").map(Into::into),
    };
    let client = Client::new(&connection.target(environment)?)?;
    let kind = kind::parse(kind)?;
    let path = kind::path(kind, flags.get("mesh").map(String::as_str));
    let page: Page<Value> = client.get(&format!("{path}?size=1000")).await?;
    let mut names: Vec<String> = page.items.iter().map(columns::name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_candidates() {
        let mut command = Cli::command();
        command.build();
        let what = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (typed, before) = words.split_last().unwrap();
            asked(&command, before, typed).what
        };
        let names = |kind: &str| What::Names { kind: kind.into() };
        for (line, want) in [
            ("get meshservices ", names("meshservices")),
            ("get msvc -o yaml ", names("msvc")),
            ("describe --context east zone ", names("zone")),
            ("get -m ", names("mesh")),
            ("get --zone ", names("zone")),
            ("delete zone ", names("zone")),
            ("inspect dataplane ", names("dataplane")),
            ("--context ", What::Contexts),
            ("context use ", What::Contexts),
            ("context delete e", What::Contexts),
            ("apply -f ", What::Files),
            ("get meshes --ca ", What::Files),
            ("get meshes a ", What::Words(vec![])),
            ("completion ", What::Words(["bash", "zsh", "fish"].map(str::to_owned).to_vec())),
            ("get x -o ", What::Words(["table", "wide", "json", "yaml", "name"].map(str::to_owned).to_vec())),
            (
                "get x --output=",
                What::Words(["table", "wide", "json", "yaml", "name"].map(str::to_owned).to_vec()),
            ),
            ("get --mesh=s", names("mesh")),
            ("get --context=e", What::Contexts),
            ("get meshes --ca=/e", What::Files),
            ("get --watch=t", What::Words(vec![])),
            ("get --none=t", What::Words(vec![])),
            ("inspect ", What::Words(vec!["dataplane".into()])),
        ] {
            assert_eq!(what(line), want, "{line:?}");
        }
        let words = |line: &str| match what(line) {
            What::Words(words) => words,
            other => panic!("{line}: {other:?}"),
        };
        assert!(words("").contains(&"status".into()) && !words("").contains(&"__complete".into()));
        assert!(words("get ").contains(&"meshtrafficpermissions".into()));
        let flags = words("get meshes --");
        assert!(flags.contains(&"--watch".into()) && flags.contains(&"--context".into()), "{flags:?}");
    }
}
