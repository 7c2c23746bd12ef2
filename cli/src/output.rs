//! Results as tables for people, or as JSON or YAML for programs.
//!
//! What people read is made with colours; they are taken out where no terminal shows them.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use owo_colors::{OwoColorize, Style};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// A table with more columns, where there are more
    Wide,
    /// For programs; a watch writes one object a line
    Json,
    /// For programs and for 'tombolo apply'
    Yaml,
    /// Names alone, one a line, where the result has names
    Name,
}

/// Where a command writes.
pub(crate) struct Out<'a> {
    pub(crate) out: &'a mut (dyn Write + Send),
    pub(crate) err: &'a mut (dyn Write + Send),
    pub(crate) format: Format,
    pub(crate) colours: Colours,
}

/// Where colours are seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours {
    pub(crate) out: bool,
    pub(crate) err: bool,
}

impl Out<'_> {
    /// Shows a result: `text` makes what people see.
    pub(crate) fn show(
        &mut self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide | Format::Name => self.print(&text())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Format::Yaml => self.out.write_all(yaml(value)?.as_bytes())?,
        }
        Ok(self.out.flush()?)
    }

    /// The same for a result that has names.
    pub(crate) fn show_named(
        &mut self,
        names: &[impl AsRef<str>],
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.format != Format::Name {
            return self.show(value, text);
        }
        let lines: String = names.iter().flat_map(|name| [name.as_ref(), "\n"]).collect();
        self.print(&lines)
    }

    /// Writes text for people to standard output.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(seen(text, self.colours.out).as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Something that people should know beside the result.
    pub(crate) fn note(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.err, "{}", seen(line, self.colours.err))?)
    }

    /// Whether the result is a table.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }
}

/// Text as it is shown: without its colours where nobody sees them.
pub(crate) fn seen(text: &str, colours: bool) -> Cow<'_, str> {
    if colours { text.into() } else { anstream::adapter::strip_str(text).to_string().into() }
}

pub(crate) fn yaml(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A cell of a table, or a word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    /// The text, coloured.
    pub(crate) fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => Style::new().green(),
            Self::Doubtful => Style::new().yellow(),
            Self::Bad => Style::new().red(),
        };
        text.style(style).to_string()
    }

    pub(crate) fn cell(self, text: impl Into<String>) -> Cell {
        // What others said must not move a terminal's cursor.
        Cell { text: text.into().replace(char::is_control, "\u{fffd}"), tone: self }
    }

    /// A number that is bad unless it is zero.
    pub(crate) fn count(self, count: u64) -> Cell {
        if count == 0 { Self::Plain } else { self }.cell(count.to_string())
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Tone::Plain.cell(text)
    }
}

/// A table without lines, as wide as its content. Columns in which nothing stands are left out.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let rows: Vec<Vec<Cell>> = rows.into_iter().collect();
    Columns::fitting(header, &rows).whole(&rows)
}

/// The columns of a table, for rows that come one after the other.
pub(crate) struct Columns {
    header: Vec<String>,
    widths: Vec<usize>,
}

const GAP: &str = "  ";

impl Columns {
    /// As wide as the header and these rows.
    pub(crate) fn fitting(header: &[&str], rows: &[Vec<Cell>]) -> Self {
        let width = |at: usize, name: &str| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
            match cells.max().unwrap_or(0) {
                // Without a header and without content there is no column.
                0 if name.is_empty() => 0,
                widest => widest.max(name.chars().count()),
            }
        };
        let widths = header.iter().enumerate().map(|(at, name)| width(at, name)).collect();
        Self { header: header.iter().map(|name| (*name).to_owned()).collect(), widths }
    }

    /// With room for rows that are not known yet.
    pub(crate) fn roomy(mut self) -> Self {
        for width in &mut self.widths {
            *width = (*width).max(12);
        }
        self
    }

    pub(crate) fn whole(&self, rows: &[Vec<Cell>]) -> String {
        rows.iter().fold(self.head(), |text, row| text + &self.line(row))
    }

    pub(crate) fn head(&self) -> String {
        let header: Vec<Cell> = self.header.iter().map(|name| name.as_str().into()).collect();
        self.line(&header)
    }

    pub(crate) fn line(&self, row: &[Cell]) -> String {
        let mut line = String::new();
        let mut owed = 0;
        for (cell, width) in row.iter().zip(&self.widths).filter(|(_, width)| **width > 0) {
            let length = cell.text.chars().count();
            if length > 0 {
                line.push_str(&" ".repeat(owed));
                line.push_str(&cell.tone.paint(&cell.text));
                owed = 0;
            }
            owed += width.saturating_sub(length) + GAP.len();
        }
        line + "\n"
    }
}

/// `just now`, `12s ago`, `3m ago`, `2d ago`.
pub(crate) fn ago(age: Duration) -> String {
    if age.as_secs() <= 1 { "just now".into() } else { span(age) + " ago" }
}

/// `12s`, `3m`, `2d`: as exact as people want to know it.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
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
    fn tables_have_no_lines_and_are_as_wide_as_what_is_seen() {
        let rows = [
            vec!["".into(), "east".into(), Tone::Good.cell("connected"), "".into()],
            vec!["".into(), "far-west".into(), "".into(), "7".into()],
        ];
        let text = table(&["", "NAME", "STATE", "LATE"], rows);
        assert!(text.contains("\u{1b}[32mconnected"), "{text:?}");
        assert_eq!(seen(&text, true), text);
        assert_eq!(
            seen(&text, false),
            "NAME      STATE      LATE\neast      connected\nfar-west             7\n"
        );
    }

    #[test]
    fn what_others_said_cannot_draw_on_a_terminal() {
        let text = table(&["WHY"], [vec![Cell::from("a\u{1b}[2Jb\nc")]]);
        assert_eq!(text, "WHY\na\u{fffd}[2Jb\u{fffd}c\n");
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
