//! The ready line: how whoever started a program learns that it serves, and where.
//!
//! `{"ready": "tombolo-global-cp", "api": "https://127.0.0.1:5681", ...}`, one line on standard output, with
//! what was really bound, so that port 0 can be asked for everywhere.

use std::fmt;
use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// What a program says once, when it serves.
pub struct ReadyLine {
    program: &'static str,
    bound: Vec<(&'static str, Place)>,
}

impl ReadyLine {
    pub fn new(program: &'static str) -> Self {
        Self { program, bound: Vec::new() }
    }

    /// Adds a place by its word of the interface: `api`, `sync`, `health`, `listen`, `ready`, `metrics`.
    pub fn with(mut self, what: &'static str, place: impl fmt::Display) -> Self {
        self.bound.push((what, Place::One(place.to_string())));
        self
    }

    /// Adds a list of places, in this order.
    pub fn with_all(mut self, what: &'static str, places: impl IntoIterator<Item: fmt::Display>) -> Self {
        let places = places.into_iter().map(|place| place.to_string()).collect();
        self.bound.push((what, Place::Several(places)));
        self
    }

    /// Writes the line to standard output.
    pub fn announce(&self) -> io::Result<()> {
        self.write(&mut io::stdout().lock())
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Place {
    One(String),
    Several(Vec<String>),
}

impl Serialize for ReadyLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.bound.len()))?;
        map.serialize_entry("ready", self.program)?;
        for (what, place) in &self.bound {
            map.serialize_entry(what, place)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_one_line_of_json_with_what_was_bound() {
        let mut out = Vec::new();
        ReadyLine::new("tombolo-global-cp")
            .with("api", "https://127.0.0.1:5681")
            .with("health", "127.0.0.1:5680")
            .with_all("listen", ["127.0.0.1:1", "127.0.0.1:2"])
            .write(&mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"ready\":\"tombolo-global-cp\",\"api\":\"https://127.0.0.1:5681\",\"health\":\"127.0.0.1:5680\",\
             \"listen\":[\"127.0.0.1:1\",\"127.0.0.1:2\"]}\n"
        );
    }
}
