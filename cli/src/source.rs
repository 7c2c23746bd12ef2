//! Documents in files, folders and standard input, each of which can say on which line something stands.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use model::document::{self, Location, Tree, Value};

use crate::failure::Failure;

/// One text with documents.
pub(crate) struct Source {
    /// A path, or `standard input`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Reads what `-f` names: files, folders (all that is YAML or JSON in them, in order of their names), `-`.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|source| Failure::File { path: "standard input".into(), source })?;
            sources.push(Source { name: "standard input".into(), text });
        } else {
            let mut files = Vec::new();
            find(path, true, &mut files).map_err(|source| Failure::File { path: path.clone(), source })?;
            for path in files {
                let text = fs::read_to_string(&path)
                    .map_err(|source| Failure::File { path: path.clone(), source })?;
                sources.push(Source { name: path.display().to_string(), text });
            }
        }
    }
    Ok(sources)
}

fn find(path: &Path, named: bool, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        let mut inside =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
        inside.sort();
        for path in inside {
            find(&path, false, found)?;
        }
    } else {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        // A file that somebody names is meant, whatever it is called.
        if named || ["yaml", "yml", "json"].contains(&extension) {
            found.push(path.to_owned());
        }
    }
    Ok(())
}

/// A document on its way to the server: JSON in which each value has a line of its own, so that a line of
/// that JSON leads back to the place in the file.
pub(crate) struct Body {
    pub(crate) json: String,
    /// By the line of the JSON, from 1 on.
    places: Vec<Location>,
}

impl Body {
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut body = Self { json: String::new(), places: Vec::new() };
        body.value(tree);
        body
    }

    /// Where in the file stands what the server found on a line of the body.
    pub(crate) fn place(&self, line: u32) -> Option<Location> {
        self.places.get(line.checked_sub(1)? as usize).copied()
    }

    fn value(&mut self, tree: &Tree) {
        self.places.push(tree.at);
        match &tree.value {
            Value::List(items) => {
                self.json.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.json.push_str(if index > 0 { ",\n" } else { "\n" });
                    self.value(item);
                }
                self.json.push(']');
            }
            Value::Object(entries) => {
                self.json.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.json.push_str(if index > 0 { ",\n" } else { "\n" });
                    self.places.push(key.at);
                    self.scalar(&Value::Text(key.text.clone()));
                    self.json.push_str(":\n");
                    self.value(value);
                }
                self.json.push('}');
            }
            scalar => self.scalar(scalar),
        }
    }

    /// The canonical form of a value without parts is the JSON of it.
    fn scalar(&mut self, value: &Value) {
        let tree = Tree { value: value.clone(), at: Location::default() };
        self.json.push_str(&String::from_utf8_lossy(&document::canonical(&tree)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_body_leads_back_to_the_file() {
        let text = "# a comment\ntype: Mesh\nname: x\nlist:\n- {a: 1.5, b: \"two\\nlines\"}\n- []\n";
        let tree = document::parse_one(text).unwrap();
        let body = Body::of(&tree);
        assert_eq!(
            document::canonical(&document::parse_one(&body.json).unwrap()),
            document::canonical(&tree)
        );
        let place = |needle: &str| {
            let line = body.json.lines().position(|line| line.contains(needle)).unwrap();
            body.place(u32::try_from(line + 1).unwrap()).unwrap().to_string()
        };
        assert_eq!(place("\"Mesh\""), "2:7");
        assert_eq!(place("\"name\""), "3:1");
        assert_eq!(place("1.5"), "5:7");
        assert_eq!(place("lines"), "5:15");
        assert_eq!(body.place(0), None);
        assert_eq!(body.place(10_000), None);
    }

    #[test]
    fn folders_are_read_in_order_and_only_what_is_a_document() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.yaml", "a.json", "b/x.yml", "notes.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let texts = |paths: &[PathBuf]| -> Vec<String> {
            read(paths).unwrap().into_iter().map(|source| source.text).collect()
        };
        assert_eq!(texts(&[dir.path().into()]), ["a.json", "b/x.yml", "c.yaml"]);
        assert_eq!(texts(&[dir.path().join("notes.txt")]), ["notes.txt"]);
        assert!(read(&[dir.path().join("missing.yaml")]).is_err());
    }
}
