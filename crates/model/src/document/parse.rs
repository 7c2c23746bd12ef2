//! Text becomes trees: YAML or JSON, which is YAML, with one or several documents.
//!
//! Every use of the YAML library stands here. Its budgets stop documents that grow when they are
//! read (aliases of aliases) or are nested too deeply, before any of it is built.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

use super::tree::{Key, Location, MAX_DEPTH, MAX_EXACT, Tree, Value};

/// The size of one document, as text and in canonical form.
pub const MAX_BYTES: usize = 512 * 1024;

/// A file may hold this many bytes in all its documents.
const MAX_TEXT_BYTES: usize = 64 * MAX_BYTES;

/// A text that is no YAML and no JSON, or too large. Nothing of it was read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// One document of a text; its lines are those of the whole text.
#[derive(Clone, Debug)]
pub struct Located {
    /// The line on which the document's first value stands, counted from 1.
    pub line: u32,
    pub tree: Tree,
}

/// All documents of a text, in order. Empty documents are left out.
pub fn parse_many(text: &str) -> Result<Vec<Located>, SyntaxError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(too_large(1, "the text", MAX_TEXT_BYTES));
    }
    let nodes: Vec<Node> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| syntax_error(&error))?;
    let documents: Vec<Located> =
        nodes.into_iter().map(|Node(tree)| Located { line: tree.at.line, tree }).collect();
    match first_too_large(text, &documents) {
        Some(line) => Err(too_large(line, "the document", MAX_BYTES)),
        None => Ok(documents),
    }
}

/// The only document of a text, which is as large as a document may be.
pub fn parse_one(text: &str) -> Result<Tree, SyntaxError> {
    if text.len() > MAX_BYTES {
        return Err(too_large(1, "the document", MAX_BYTES));
    }
    let mut documents = parse_many(text)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document.tree),
        (Some(more), false) => Err(SyntaxError {
            line: more.line,
            column: 1,
            message: "a second document starts here; one is expected".into(),
        }),
        (None, _) => Err(SyntaxError { line: 1, column: 1, message: "the document is empty".into() }),
    }
}

fn too_large(line: u32, what: &str, limit: usize) -> SyntaxError {
    SyntaxError { line, column: 1, message: format!("{what} is larger than {} KiB", limit / 1024) }
}

/// The line of the first document that is too large: from its first value to that of the next.
fn first_too_large(text: &str, documents: &[Located]) -> Option<u32> {
    let mut starts = vec![0];
    starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1));
    let offset = |line: u32| starts.get(line.saturating_sub(1) as usize).copied().unwrap_or(text.len());
    let ends = documents.iter().skip(1).map(|next| offset(next.line)).chain([text.len()]);
    let mut with_ends = documents.iter().zip(ends);
    with_ends
        .find(|(document, end)| end - offset(document.line) > MAX_BYTES)
        .map(|(document, _)| document.line)
}

fn options() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_depth: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
        max_aliases: 1_000,
        max_anchors: 1_000,
        max_recorded_anchor_events: 100_000,
        max_recorded_anchor_bytes: 4 * MAX_BYTES,
        max_documents: 1_024,
        max_nodes: 500_000,
        max_total_scalar_bytes: MAX_TEXT_BYTES,
    };
    let mut options = serde_saphyr::options! {
        budget: budget,
        // Reported by the collecting pass, together with all other mistakes.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `on`, `no`, `010` and `1_000` are texts, as in YAML 1.2 and in JSON.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        reject_unsupported_tags: true,
        ignore_binary_tag_for_string: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = 100_000;
    options.alias_limits.max_replay_stack_depth = 16;
    options
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let at = error.location().map(location).unwrap_or(Location { line: 1, column: 1 });
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The place is said by the fields.
    let message = match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    };
    SyntaxError { line: at.line, column: at.column, message }
}

fn location(at: serde_saphyr::Location) -> Location {
    let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Location { line: clamp(at.line()), column: clamp(at.column()) }
}

/// A tree that reads itself.
struct Node(Tree);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: Content(value), referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self(Tree { value, at: location(referenced) }))
    }
}

/// A value without its place.
struct Content(Value);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor).map(Self)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        if value.unsigned_abs() <= MAX_EXACT.into() {
            Ok(Value::Number(value as f64))
        } else {
            Err(E::custom(format!("{value} is too large to be exact as a number: write it in quotes")))
        }
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_i128(i128::try_from(value).unwrap_or(i128::MAX))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // Beyond this all numbers are whole, and in canonical form look like any other whole number.
        if value.abs() <= MAX_EXACT as f64 {
            Ok(Value::Number(value))
        } else {
            Err(E::custom(format!("{value:e} is too large to be exact as a number: write it in quotes")))
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Node(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let Node(value) = entries.next_value()?;
            object.push((Key { text: key.value, at: location(key.referenced) }, value));
        }
        Ok(Value::Object(object))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("bytes are written as base64 text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::canonical;

    fn json(text: &str) -> String {
        String::from_utf8(canonical(&parse_one(text).unwrap())).unwrap()
    }

    #[test]
    fn values_are_those_of_yaml_1_2() {
        let cases = [
            (
                "a: [on, no, y, 010, 1_000, 1:30, 2026-01-01]",
                r#"{"a":["on","no","y","010","1_000","1:30","2026-01-01"]}"#,
            ),
            ("a: [true, ~, 0x10, 1e3, .5, -0, 1.0]", r#"{"a":[true,null,16,1000,0.5,0,1]}"#),
            ("a: [\"true\", '1', !!str 1, !!int \"5\"]", r#"{"a":["true","1","1",5]}"#),
            ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
            ("1: x\ntrue: y", r#"{"1":"x","true":"y"}"#),
            ("a: &x {y: 1}\nb: *x\nc: {<<: *x, z: 2}", r#"{"a":{"y":1},"b":{"y":1},"c":{"y":1,"z":2}}"#),
            ("{\"a\": \"\\ud83d\\ude00\\/\\u001f\", \"\": null}", "{\"\":null,\"a\":\"\u{1f600}/\\u001f\"}"),
        ];
        for (text, want) in cases {
            assert_eq!(json(text), want);
        }
    }

    #[test]
    fn a_text_that_is_no_document_says_where_and_why() {
        let cases = [
            ("a: [1, 2", 1, "unclosed"),
            ("a: 1\nb: c: d", 2, "mapping values"),
            ("a: 1\nb: .nan", 2, "finite"),
            ("a: 1\nb: 9007199254740993", 2, "in quotes"),
            ("a: 1\nb: 1e16", 2, "in quotes"),
            ("a: 1\nb: 99999999999999999999999999999999999999999999", 2, "in quotes"),
            ("a: 1\nb: !thing 1", 2, "!thing"),
            ("a: 1\nb: *c", 2, "c"),
            ("", 1, "empty"),
            ("# nothing\n---\n", 1, "empty"),
            ("a: 1\n---\nb: 2", 3, "second document"),
        ];
        for (text, line, word) in cases {
            let error = parse_one(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.message.contains(word), "{text:?}: {error}");
            assert!(!error.message.contains(" at line "), "{error}");
        }
    }

    #[test]
    fn several_documents_keep_the_lines_of_their_text() {
        let documents = parse_many("# head\n---\n---\na: 1\n---\n\nb:\n  c: 2\n...\n").unwrap();
        let lines: Vec<u32> = documents.iter().map(|document| document.line).collect();
        assert_eq!(lines, [4, 7]);
        let value = documents[1].tree.get("b").and_then(|tree| tree.get("c")).unwrap();
        assert_eq!(value.at, Location { line: 8, column: 6 });
    }

    #[test]
    fn a_document_has_at_most_512_kib_and_its_neighbours_do_not_count() {
        let of = |bytes: usize| format!("a: {}\n", "x".repeat(bytes - 4));
        let two = format!("{}---\n{}", of(MAX_BYTES - 4), of(MAX_BYTES));
        assert_eq!(parse_many(&two).unwrap().len(), 2);
        let error = parse_many(&format!("{}---\n{}", of(100), of(MAX_BYTES + 1))).unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (3, "the document is larger than 512 KiB"));
    }

    #[test]
    fn s12_nesting_is_refused_before_it_can_exhaust_the_stack() {
        let blocks: String = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        let million = 1_000_000;
        for deep in
            ["[".repeat(million), "{a: ".repeat(million), "- ".repeat(100_000), "? ".repeat(1_000), blocks]
        {
            assert!(parse_many(&deep).is_err());
        }
        let allowed = format!("{}1{}", "{a: ".repeat(MAX_DEPTH), "}".repeat(MAX_DEPTH));
        parse_many(&allowed).unwrap();
    }

    #[test]
    fn aliases_of_aliases_are_refused_before_they_grow() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let tenfold = vec![format!("*a{}", n - 1); 10].join(",");
            bomb += &format!("a{n}: &a{n} [{tenfold}]\n");
        }
        assert!(parse_many(&bomb).is_err());
        assert!(parse_many("a: &a [*a]").is_err());
    }
}
