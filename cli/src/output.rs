//! Results as tables for people, or as JSON or YAML for programs.

use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::Table;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// Where a command writes.
pub(crate) struct Out<'a> {
    pub(crate) out: &'a mut (dyn Write + Send),
    pub(crate) err: &'a mut (dyn Write + Send),
    pub(crate) format: Format,
}

impl Out<'_> {
    /// Shows a result: `table` makes what people see.
    pub(crate) fn show(
        &mut self,
        value: &impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.out.write_all(table().as_bytes())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Format::Yaml => self.out.write_all(yaml(value)?.as_bytes())?,
        }
        Ok(self.out.flush()?)
    }

    /// Something that people should know beside the result.
    pub(crate) fn note(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.err, "{line}")?)
    }
}

pub(crate) fn yaml(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A table without lines, as wide as its content.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned() + "\n").collect();
    lines.concat()
}

/// `just now`, `12s ago`, `3m ago`, `2d ago`.
pub(crate) fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..=1 => "just now".into(),
        2..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// A document in the order in which people write it; everything else keeps the order it has.
pub(crate) struct Ordered<'a>(pub(crate) &'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 8] = ["apiVersion", "kind", "type", "mesh", "name", "metadata", "labels", "spec"];
        let Value::Object(fields) = self.0 else {
            return self.0.serialize(serializer);
        };
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        let rank = |key: &str| match FIRST.iter().position(|first| *first == key) {
            Some(at) => at,
            None if key == "status" => FIRST.len() + 1,
            None => FIRST.len(),
        };
        let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
        sorted.sort_by_key(|(key, _)| rank(key));
        for (key, value) in sorted {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_shown_as_people_write_it() {
        let document = serde_json::json!({
            "status": {"revision": "global-1-2"}, "spec": {"b": 1, "a": "yes"}, "name": "x", "type": "Mesh", "zeta": 0
        });
        assert_eq!(
            yaml(&Ordered(&document)).unwrap(),
            "type: Mesh\nname: x\nspec:\n  a: \"yes\"\n  b: 1\nzeta: 0\nstatus:\n  revision: global-1-2\n"
        );
    }

    #[test]
    fn tables_have_no_lines() {
        let rows = [
            vec!["east".to_owned(), "connected".to_owned()],
            vec!["far-west".to_owned(), "stale".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "STATE"], rows),
            "NAME      STATE\neast      connected\nfar-west  stale\n"
        );
    }

    #[test]
    fn ages_are_for_people() {
        for (seconds, want) in
            [(0, "just now"), (12, "12s ago"), (180, "3m ago"), (9_000, "2h ago"), (200_000, "2d ago")]
        {
            assert_eq!(ago(Duration::from_secs(seconds)), want);
        }
    }
}
