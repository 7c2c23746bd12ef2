//! A document as a tree in which every value knows where it stands.

use std::fmt;

/// Where something stands in a text, counted from 1, columns in characters. 0 where there is no text,
/// as in documents that a program made.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Location {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One value and where it stands. Trees are at most [`MAX_DEPTH`] deep, so whoever walks one may recurse.
#[derive(Clone, Debug)]
pub struct Tree {
    pub value: Value,
    pub at: Location,
}

/// Deeper documents are refused before they become a tree.
pub const MAX_DEPTH: usize = 24;

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    /// Not beyond 2^53 - 1 either way, so exact if whole: larger ones are refused, as JSON readers would
    /// differ on them.
    Number(f64),
    Text(String),
    List(Vec<Tree>),
    /// In the order of the text; keys that stand twice are both here.
    Object(Vec<(Key, Tree)>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub at: Location,
}

/// The largest whole number up to which all are exact as IEEE 754 doubles, which is what JSON has.
pub(super) const MAX_EXACT: u64 = (1 << 53) - 1;

impl Tree {
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value under a key of an object; nothing for other values.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            Value::Object(entries) => {
                entries.iter().find(|(found, _)| found.text == key).map(|(_, tree)| tree)
            }
            _ => None,
        }
    }

    /// The text under a key of an object, if it is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Value {
    /// What it is, in the words of messages.
    pub fn sort(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl From<serde_json::Value> for Tree {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Object(entries) => {
                let entry =
                    |(text, json): (String, Json)| (Key { text, at: Location::default() }, Self::from(json));
                Value::Object(entries.into_iter().map(entry).collect())
            }
        };
        Self { value, at: Location::default() }
    }
}
