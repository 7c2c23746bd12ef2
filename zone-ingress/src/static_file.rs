//! A whole table in one file: YAML with `handles`, which leads from names to addresses.

use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use snapshot::parts::Handles;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    handles: Handles,
}

/// Reads a file. An error says where in the file it is.
pub fn read(path: &Path) -> anyhow::Result<Handles> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a table of handles", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Handles> {
    let content: Content = serde_saphyr::from_str(text).map_err(|error| anyhow!("{error}"))?;
    Ok(content.handles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_leads_from_names_to_addresses() {
        let handles = parse("handles:\n  catalog.test: 127.0.0.1:8080\n").unwrap();
        assert_eq!(handles.0["catalog.test"], "127.0.0.1:8080".parse().unwrap());
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let cases = [
            ("handles:\n  a.test: 127.0.0.1:80\n  b.test: nowhere\n", "line 3"),
            ("handles: {}\nhandle: {}\n", "line 2"),
            ("handles:\n  a.test: 127.0.0.1:80\n  a.test: 127.0.0.1:81\n", "line 3"),
        ];
        for (text, want) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }
}
