//! Reads a tree into typed values and collects every mistake on the way.
//!
//! A kind reads itself in one pass: it asks an object for its fields, a field for its value. What is
//! wrong is reported where it stands and reading goes on; what was asked for and came out as `None`
//! was absent or has been reported. So a spec that was read with an empty [`Report`] holds valid
//! values only, and whoever reads checks that once, at the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::labels::LabelKey;

use super::tree::{Key, Location, Tree, Value};

/// One mistake in a document.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Violation {
    /// Such as `spec.rules[0].default.allow[2].spiffeID`.
    pub field: String,
    /// What is wrong and, where that can be said, what would be right.
    pub reason: String,
    /// Counted from 1; 0 where the document never was a text.
    pub line: u32,
    pub column: u32,
}

/// How strictly a document is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// For authors: what is not known is a mistake.
    Strict,
    /// In transit and at rest: a newer author may have written fields that this program does not know.
    Tolerant,
}

/// A document that is nothing but mistakes must not become an answer many times its size.
const MAX_VIOLATIONS: usize = 1_000;

/// The mistakes of one document.
#[derive(Debug)]
pub struct Report {
    mode: Mode,
    violations: RefCell<Vec<Violation>>,
    ignored: Cell<usize>,
    /// The first of those that are passed over, for who asks about a document.
    passed_over: RefCell<Vec<String>>,
}

/// One page has no room for all.
const MAX_PASSED_OVER: usize = 10;

impl Report {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            violations: RefCell::default(),
            ignored: Cell::default(),
            passed_over: RefCell::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.violations.borrow().is_empty()
    }

    /// How much that is unknown was passed over; always 0 when strict.
    pub fn ignored(&self) -> usize {
        self.ignored.get()
    }

    /// What this program does not know of the document: the first few, by their path.
    pub(crate) fn passed_over(&self) -> Vec<String> {
        self.passed_over.borrow().clone()
    }

    fn ignore(&self, field: String) {
        self.ignored.set(self.ignored.get() + 1);
        self.pass_over(field);
    }

    fn pass_over(&self, field: String) {
        let mut passed_over = self.passed_over.borrow_mut();
        if passed_over.len() < MAX_PASSED_OVER {
            passed_over.push(field);
        }
    }

    /// In the order of the document, and no more than anybody reads.
    pub fn into_violations(self) -> Vec<Violation> {
        let mut violations = self.violations.into_inner();
        violations.sort_by_key(|violation| (violation.line, violation.column));
        violations.truncate(MAX_VIOLATIONS);
        violations
    }

    pub(crate) fn add(&self, field: String, at: Location, reason: impl Display) {
        let Location { line, column } = at;
        self.violations.borrow_mut().push(Violation { field, reason: reason.to_string(), line, column });
    }
}

/// A value of the document, with the path that leads to it.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    tree: &'a Tree,
    path: String,
    report: &'a Report,
}

impl<'a> Item<'a> {
    pub fn new(tree: &'a Tree, path: impl Into<String>, report: &'a Report) -> Self {
        Self { tree, path: path.into(), report }
    }

    /// The same value, reported under another path.
    pub(crate) fn at_path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tree(&self) -> &'a Tree {
        self.tree
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// Reports one entry of an object whose keys are labels, by either spelling of the key.
    pub(crate) fn refuse_entry(&self, key: &str, reason: impl Display) {
        if let Some(item) = self.entry(key) {
            item.refuse(reason);
        }
    }

    /// The value of a label, by either spelling of its key.
    pub(crate) fn entry(&self, key: &str) -> Option<Item<'a>> {
        let Value::Object(entries) = &self.tree.value else { return None };
        let found = |(found, _): &&(Key, Tree)| {
            found.text.parse::<LabelKey>().is_ok_and(|found| found.as_str() == key)
        };
        let (found, tree) = entries.iter().find(found)?;
        Some(Item::new(tree, format!("{}[\"{}\"]", self.path, found.text), self.report))
    }

    /// Reports that this value is wrong.
    pub fn refuse(&self, reason: impl Display) {
        self.report.add(self.path.clone(), self.tree.at, reason);
    }

    /// An object whose fields `read` takes; those that it leaves are reported as unknown.
    pub fn object<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Option<T> {
        let Value::Object(_) = &self.tree.value else {
            return self.wrong_sort("an object");
        };
        let mut fields = Fields::new(self.tree, self.path.clone(), self.report);
        let value = read(&mut fields);
        fields.finish();
        value
    }

    pub fn list(&self) -> Option<Vec<Item<'a>>> {
        let Value::List(items) = &self.tree.value else {
            return self.wrong_sort("a list");
        };
        let item = |(index, tree)| Item::new(tree, format!("{}[{index}]", self.path), self.report);
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list of which every member is read; none if one of them could not be.
    pub fn list_of<T>(&self, read: impl FnMut(Item<'a>) -> Option<T>) -> Option<Vec<T>> {
        // All are read before the first failure counts, so that every mistake is reported.
        let read: Vec<Option<T>> = self.list()?.into_iter().map(read).collect();
        read.into_iter().collect()
    }

    /// The entries of an object whose keys are free.
    pub fn entries(&self) -> Option<Vec<(&'a str, Item<'a>)>> {
        let Value::Object(entries) = &self.tree.value else {
            return self.wrong_sort("an object");
        };
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (key, tree) in entries {
            let item = Item::new(tree, format!("{}[\"{}\"]", self.path, key.text), self.report);
            if seen.insert(key.text.as_str()) {
                found.push((key.text.as_str(), item));
            } else {
                self.report.add(item.path, key.at, "stands here a second time");
            }
        }
        Some(found)
    }

    /// The text, if it is one; reports nothing.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        match &self.tree.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&'a str> {
        match &self.tree.value {
            Value::Text(text) => Some(text),
            Value::Number(_) | Value::Bool(_) => self.wrong_sort("a text: write it in quotes"),
            _ => self.wrong_sort("a text"),
        }
    }

    pub fn non_empty_text(&self) -> Option<&'a str> {
        match self.text()? {
            "" => self.fail("must not be empty"),
            text => Some(text),
        }
    }

    pub fn bool(&self) -> Option<bool> {
        match self.tree.value {
            Value::Bool(value) => Some(value),
            _ => self.wrong_sort("true or false"),
        }
    }

    /// A whole number from `least` to `most`.
    pub fn integer(&self, least: u32, most: u32) -> Option<u32> {
        match self.tree.value {
            Value::Number(number)
                if number.fract() == 0.0 && (f64::from(least)..=f64::from(most)).contains(&number) =>
            {
                Some(number as u32)
            }
            Value::Number(number) => {
                self.fail(format!("must be a whole number from {least} to {most}, not {number}"))
            }
            _ => self.wrong_sort(&format!("a whole number from {least} to {most}")),
        }
    }

    /// A text that parses as `T`; its error is the reason.
    pub fn parse<T>(&self) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.text()?.parse().map_err(|error: T::Err| self.refuse(error)).ok()
    }

    /// One of some words.
    pub fn one_of<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            match words[..] {
                [only] => self.refuse(format!("must be {only}, not '{text}'")),
                _ => self.refuse(format!("must be one of {}, not '{text}'", words.join(", "))),
            }
        }
        found
    }

    /// The same; but in transit a word that is none of them is a newer author's, and passed over.
    pub(crate) fn known_word<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let is_newer = self.as_text().is_some_and(|text| words.iter().all(|(word, _)| *word != text));
        if is_newer && self.report.mode == Mode::Tolerant {
            self.report.ignore(self.path.clone());
            return None;
        }
        self.one_of(words)
    }

    /// Reports and gives nothing.
    pub fn fail<T>(&self, reason: impl Display) -> Option<T> {
        self.refuse(reason);
        None
    }

    fn wrong_sort<T>(&self, wanted: &str) -> Option<T> {
        self.fail(format!("must be {wanted}, not {}", self.tree.value.sort()))
    }
}

/// The fields of one object, each taken at most once.
#[derive(Debug)]
pub struct Fields<'a> {
    tree: &'a Tree,
    path: String,
    report: &'a Report,
    taken: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// `tree` is an object; of another value no field is found. Ends with [`Fields::finish`].
    pub(crate) fn new(tree: &'a Tree, path: impl Into<String>, report: &'a Report) -> Self {
        Self { tree, path: path.into(), report, taken: BTreeSet::new() }
    }

    /// A field that may be left out; null counts as left out.
    pub fn optional(&mut self, name: &'static str) -> Option<Item<'a>> {
        self.taken.insert(name);
        self.tree
            .get(name)
            .filter(|tree| !tree.is_null())
            .map(|tree| Item::new(tree, self.below(name), self.report))
    }

    pub fn required(&mut self, name: &'static str) -> Option<Item<'a>> {
        let found = self.optional(name);
        if found.is_none() {
            self.refuse(name, "is missing");
        }
        found
    }

    /// Takes a field that is known and deliberately not there, with the reason.
    pub fn unsupported(&mut self, name: &'static str, reason: &str) {
        let Some(item) = self.optional(name) else { return };
        match self.report.mode {
            Mode::Strict => item.refuse(reason),
            Mode::Tolerant => self.report.pass_over(item.path),
        }
    }

    /// Takes a field without looking at it.
    pub fn ignore(&mut self, name: &'static str) {
        self.taken.insert(name);
    }

    /// Whether the object has this field and it is not null; takes nothing.
    pub fn has(&self, name: &str) -> bool {
        self.tree.get(name).is_some_and(|tree| !tree.is_null())
    }

    /// Whether the object has fields that were not taken so far.
    pub fn has_unknown(&self) -> bool {
        let Value::Object(entries) = &self.tree.value else { return false };
        entries.iter().any(|(key, _)| !self.taken.contains(key.text.as_str()))
    }

    pub fn is_empty_list(&self, name: &str) -> bool {
        matches!(self.tree.get(name), Some(Tree { value: Value::List(items), .. }) if items.is_empty())
    }

    /// This object as a value, to report something about it as a whole.
    pub fn whole(&self) -> Item<'a> {
        Item::new(self.tree, self.path.clone(), self.report)
    }

    /// Reports something about a field, present or not.
    pub fn refuse(&self, name: &str, reason: impl Display) {
        let at = self.tree.get(name).unwrap_or(self.tree).at;
        self.report.add(self.below(name), at, reason);
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// Whether the object has this key, even with null.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tree.get(name).is_some()
    }

    /// What is taken from now on is reported below another path.
    pub(crate) fn go_on_as(&mut self, path: &str) {
        self.path = path.to_owned();
    }

    /// Reports the fields that nobody took and those that stand twice.
    pub(crate) fn finish(self) {
        let Value::Object(entries) = &self.tree.value else { return };
        let mut seen = BTreeSet::new();
        for (key, _) in entries {
            let name = key.text.as_str();
            if !seen.insert(name) {
                self.report.add(self.below(name), key.at, "stands here a second time");
            } else if !self.taken.contains(name) {
                match self.report.mode {
                    Mode::Strict => self.report.add(self.below(name), key.at, unknown(name, &self.taken)),
                    Mode::Tolerant => self.report.ignore(self.below(name)),
                }
            }
        }
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// Names the field that was probably meant, or all that there are if they are few.
fn unknown(name: &str, known: &BTreeSet<&'static str>) -> String {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    if let Some(meant) = known.iter().find(|known| close(&plain(known), &plain(name))) {
        return format!("is not a known field; did you mean '{meant}'?");
    }
    match known.len() {
        0 | 9.. => "is not a known field".to_owned(),
        _ => {
            let known: Vec<&str> = known.iter().copied().collect();
            format!("is not a known field; there are {}", known.join(", "))
        }
    }
}

/// Whether two words differ by at most one letter: too many, missing, another, or swapped with its neighbour.
fn close(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], []) => true,
        ([_, a_rest @ ..], [_, b_rest @ ..]) if a_rest == b_rest => true,
        ([_, a_rest @ ..], b) if a_rest == b => true,
        (a, [_, b_rest @ ..]) if a == b_rest => true,
        ([a0, a1, a_rest @ ..], [b0, b1, b_rest @ ..]) => a0 == b1 && a1 == b0 && a_rest == b_rest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_one;

    #[test]
    fn a_misspelt_field_is_told_what_was_meant() {
        let known: BTreeSet<&'static str> = ["port", "targetPort", "appProtocol"].into();
        for (name, meant) in [
            ("prot", "port"),
            ("ports", "port"),
            ("por", "port"),
            ("pork", "port"),
            ("target_port", "targetPort"),
        ] {
            assert_eq!(unknown(name, &known), format!("is not a known field; did you mean '{meant}'?"));
        }
        assert_eq!(unknown("x", &known), "is not a known field; there are appProtocol, port, targetPort");
        assert_eq!(unknown("x", &BTreeSet::new()), "is not a known field");
    }

    #[test]
    fn reading_goes_on_after_a_mistake_and_reports_in_the_order_of_the_text() {
        let tree =
            parse_one("extra: 1\nlist: [1, x, 70000, 2.5]\nlist: []\nflag: yes\nname: ''\nword: B").unwrap();
        let report = Report::new(Mode::Strict);
        let read = Item::new(&tree, "spec", &report).object(|fields| {
            // Asked for in another order than the text has.
            let name = fields.required("name").and_then(|item| item.non_empty_text());
            let word = fields.optional("word").and_then(|item| item.one_of(&[("A", 1), ("C", 3)]));
            let missing = fields.required("missing");
            let flag = fields.optional("flag").and_then(|item| item.bool());
            let list = fields.optional("list").and_then(|item| item.list_of(|item| item.integer(1, 65535)));
            Some((name?, word?, missing?, flag?, list?))
        });
        assert!(read.is_none());
        let found: Vec<String> = report
            .into_violations()
            .into_iter()
            .map(|one| format!("{}:{} {} {}", one.line, one.column, one.field, one.reason))
            .collect();
        let want = [
            "1:1 spec.missing is missing",
            "1:1 spec.extra is not a known field; there are flag, list, missing, name, word",
            "2:11 spec.list[1] must be a whole number from 1 to 65535, not a text",
            "2:14 spec.list[2] must be a whole number from 1 to 65535, not 70000",
            "2:21 spec.list[3] must be a whole number from 1 to 65535, not 2.5",
            "3:1 spec.list stands here a second time",
            "4:7 spec.flag must be true or false, not a text",
            "5:7 spec.name must not be empty",
            "6:7 spec.word must be one of A, C, not 'B'",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn in_transit_unknown_fields_are_passed_over_and_counted() {
        let tree = parse_one("a: {b: 1, new: 2}\nnewer: 3").unwrap();
        let report = Report::new(Mode::Tolerant);
        let read = Item::new(&tree, "", &report)
            .object(|fields| fields.required("a")?.object(|fields| fields.required("b")?.integer(0, 9)));
        assert_eq!((read, report.is_empty(), report.ignored()), (Some(1), true, 2));
        assert_eq!(report.passed_over(), ["a.new", "newer"]);
    }
}
