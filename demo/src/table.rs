//! The live table: how each pair of services does.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use owo_colors::OwoColorize;

use crate::traffic::{Tally, Traffic};

/// One line a pair. `color` is for terminals alone.
pub fn render(traffic: &Traffic, color: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["from", "to", "zones", "req/s", "p50", "p99", "access", "the server saw"]);
    for call in traffic.calls() {
        let (pair, tally) = (call.pair, call.tally());
        let (rate, p50, p99) = tally.recent();
        let zones =
            if pair.crosses_zones() { format!("{} > {}", pair.from, pair.to) } else { pair.from.to_owned() };
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(pair.caller),
            Cell::new(pair.called),
            Cell::new(zones),
            number(format!("{rate:.0}")),
            number(millis(p50)),
            number(millis(p99)),
            Cell::new(access(&tally)),
            Cell::new(if tally.decision.is_some() { "-" } else { tally.client.as_deref().unwrap_or("-") }),
        ]);
    }
    let lines = table.lines().map(|line| if color { shaded(&line) } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// What needs a look is red.
fn shaded(line: &str) -> String {
    if line.contains("denied") || line.contains("failed") { line.red().to_string() } else { line.to_owned() }
}

fn access(tally: &Tally) -> String {
    match (&tally.decision, tally.failed) {
        (Some(_), _) => "denied".to_owned(),
        (None, 0) => "allowed".to_owned(),
        (None, failed) => format!("allowed, {failed} failed"),
    }
}

fn millis(latency: Duration) -> String {
    format!("{:.1} ms", latency.as_secs_f64() * 1e3)
}
