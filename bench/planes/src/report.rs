//! What was measured, as a table for people or as lines of JSON.

use std::io::Write;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

#[derive(Debug, Args)]
pub struct Output {
    /// Lines of JSON, one for each figure
    #[arg(long)]
    pub json: bool,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// The most that it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must: Option<f64>,
}

impl Row {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, must: None }
    }

    pub fn must(self, most: f64) -> Self {
        Self { must: Some(most), ..self }
    }

    fn verdict(&self) -> &'static str {
        match self.must {
            None => "",
            Some(most) if self.value <= most => "kept",
            Some(_) => "missed",
        }
    }
}

impl Output {
    pub fn print(&self, rows: &[Row], color: bool, out: &mut impl Write) -> anyhow::Result<()> {
        if self.json {
            for row in rows {
                writeln!(out, "{}", serde_json::to_string(row)?)?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["what", "measured", "must", ""]);
        for row in rows {
            let must = row.must.map(|most| format!("{most} {}", row.unit)).unwrap_or_default();
            table.add_row([
                row.what.clone(),
                format!("{:.3} {}", row.value, row.unit),
                must,
                row.verdict().into(),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.lines() {
            let line = if color && line.contains("missed") { format!("\x1b[31m{line}\x1b[0m") } else { line };
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What happens, for who waits.
#[expect(clippy::print_stderr, reason = "standard output is for the figures")]
pub fn tell(what: &str) {
    eprintln!("{what}");
}
