//! Templates in documents: text with `{{ .Word }}` and `{{ label "key" }}`.

use std::fmt;
use std::sync::Arc;

use crate::labels::LabelKey;

/// A parsed template; it holds only words that were allowed where it stands.
#[derive(Clone, Eq, PartialEq)]
pub struct Template {
    written: Arc<str>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Text(String),
    Word(String),
    Label(LabelKey),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidTemplate {
    #[error("has '{{{{' without '}}}}'")]
    Unclosed,
    #[error("has '{{{{ {found} }}}}'; there are {known} and label \"key\"")]
    UnknownWord { found: String, known: String },
}

/// The word or label that had no value.
#[derive(Debug, Eq, PartialEq)]
pub struct Unrendered(pub String);

impl Template {
    /// `words` are those that mean something here, such as `.Mesh`.
    pub fn parse(text: &str, words: &[&str]) -> Result<Self, InvalidTemplate> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or(InvalidTemplate::Unclosed)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let inside = inside.trim();
            let label = || {
                let quoted = inside.strip_prefix("label")?.trim_start();
                quoted.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
            };
            pieces.push(if words.contains(&inside) {
                Piece::Word(inside.to_owned())
            } else if let Some(key) = label() {
                Piece::Label(key)
            } else {
                return Err(InvalidTemplate::UnknownWord {
                    found: inside.to_owned(),
                    known: words.join(", "),
                });
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { written: text.into(), pieces })
    }

    /// A word or label without a value, or with an empty one, makes nothing.
    pub fn render(
        &self,
        word: impl Fn(&str) -> Option<String>,
        label: impl Fn(&str) -> Option<String>,
    ) -> Result<String, Unrendered> {
        let mut text = String::new();
        for piece in &self.pieces {
            let (value, name) = match piece {
                Piece::Text(fixed) => {
                    text.push_str(fixed);
                    continue;
                }
                Piece::Word(name) => (word(name), name.as_str()),
                Piece::Label(key) => (label(key.as_str()), key.as_str()),
            };
            match value {
                Some(value) if !value.is_empty() => text.push_str(&value),
                _ => return Err(Unrendered(name.to_owned())),
            }
        }
        Ok(text)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    pub fn mentions(&self, word: &str) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Word(found) if found == word))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let template = Template::parse(text, &[".Mesh", ".Zone"]).map_err(|error| error.to_string())?;
        let word = |word: &str| (word == ".Mesh").then(|| "shop".to_owned());
        let label = |key: &str| (key == "tombolo.io/zone").then(|| "east".to_owned());
        template.render(word, label).map_err(|Unrendered(word)| word)
    }

    #[test]
    fn words_and_labels_are_filled_in() {
        assert_eq!(render("a.{{ .Mesh }}.{{.Mesh}}.b"), Ok("a.shop.shop.b".into()));
        assert_eq!(render("{{ label \"kuma.io/zone\" }}"), Ok("east".into()));
        assert_eq!(render("plain .Mesh }}"), Ok("plain .Mesh }}".into()));
        assert_eq!(render("{{ .Zone }}"), Err(".Zone".into()));
        assert_eq!(render("{{ label \"app\" }}"), Err("app".into()));
        assert!(render("{{ .Mesh").unwrap_err().contains("without"));
        let unknown = render("{{ .Name }}").unwrap_err();
        assert!(unknown.contains(".Name") && unknown.contains(".Mesh, .Zone"), "{unknown}");
    }
}
