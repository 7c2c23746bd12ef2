//! Folds what several policies say into one: RFC 7396, but lists in fields whose name starts with `append`
//! follow each other.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::access::RuleOrigin;

/// What several policies say together, and who said it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged<T> {
    pub value: T,
    /// The entry that set each field, by the field's path, such as `http.requestTimeout`. Each member of a list
    /// that was appended to has its own, such as `appendMatch[2]`.
    pub set_by: BTreeMap<String, RuleOrigin>,
}

/// Folds in the order given, the strongest last. As all are of one type, so is their merge; the error is for
/// types of which that is not so.
pub fn fold<'a, T>(
    entries: impl IntoIterator<Item = (RuleOrigin, &'a T)>,
) -> Result<Merged<T>, serde_json::Error>
where
    T: Serialize + DeserializeOwned + 'a,
{
    let mut value = Value::Object(Map::new());
    let mut set_by = BTreeMap::new();
    for (origin, entry) in entries {
        merge(&mut value, serde_json::to_value(entry)?, "", &origin, &mut set_by);
    }
    Ok(Merged { value: serde_json::from_value(value)?, set_by })
}

fn merge(
    target: &mut Value,
    patch: Value,
    path: &str,
    origin: &RuleOrigin,
    set_by: &mut BTreeMap<String, RuleOrigin>,
) {
    let Value::Object(patch) = patch else {
        forget(path, set_by);
        set_by.insert(path.to_owned(), origin.clone());
        *target = patch;
        return;
    };
    if !target.is_object() {
        forget(path, set_by);
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, patch) in patch {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match patch {
            Value::Null => {
                forget(&path, set_by);
                target.remove(&name);
            }
            Value::Array(more) if name.starts_with("append") => {
                let list = target.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    for (index, _) in more.iter().enumerate() {
                        set_by.insert(format!("{path}[{}]", list.len() + index), origin.clone());
                    }
                    list.extend(more);
                }
            }
            patch => merge(target.entry(name).or_insert(Value::Null), patch, &path, origin, set_by),
        }
    }
}

/// What stood at a path, and below it, was set by nobody any more.
fn forget(path: &str, set_by: &mut BTreeMap<String, RuleOrigin>) {
    set_by.retain(|set, _| {
        let below = set.strip_prefix(path);
        below.is_none_or(|rest| !(rest.is_empty() || rest.starts_with(['.', '['])))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn origin(policy: &str) -> RuleOrigin {
        RuleOrigin {
            policy: format!("MeshTimeout/default/global//{policy}").parse().unwrap(),
            version: "global-1-1".parse().unwrap(),
            path: "spec.rules[0].default".into(),
        }
    }

    fn folded(entries: &[(&str, Value)]) -> (Value, BTreeMap<String, String>) {
        let merged = fold(entries.iter().map(|(policy, value)| (origin(policy), value))).unwrap();
        let by = merged.set_by.into_iter().map(|(path, origin)| (path, origin.policy.name.to_string()));
        (merged.value, by.collect())
    }

    fn by(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(path, policy)| ((*path).to_owned(), (*policy).to_owned())).collect()
    }

    #[test]
    fn objects_merge_by_field_and_everything_else_is_replaced() {
        let (value, set_by) = folded(&[
            ("a", json!({ "idle": "1h", "http": { "request": "15s", "stream": "30m" }, "list": [1, 2] })),
            ("b", json!({ "http": { "request": "1s" }, "list": [3] })),
        ]);
        assert_eq!(value, json!({ "idle": "1h", "http": { "request": "1s", "stream": "30m" }, "list": [3] }));
        let want = [("idle", "a"), ("http.request", "b"), ("http.stream", "a"), ("list", "b")];
        assert_eq!(set_by, by(&want));
    }

    #[test]
    fn null_takes_away_and_another_sort_of_value_takes_the_place() {
        let (value, set_by) = folded(&[
            ("a", json!({ "http": { "request": "15s" }, "httpX": 1, "tcp": 1 })),
            ("b", json!({ "http": null, "tcp": { "x": 1 } })),
        ]);
        assert_eq!(value, json!({ "httpX": 1, "tcp": { "x": 1 } }));
        assert_eq!(set_by, by(&[("httpX", "a"), ("tcp.x", "b")]));
        let (value, set_by) =
            folded(&[("a", json!({ "http": { "request": 1 } })), ("b", json!({ "http": 2 }))]);
        assert_eq!((value, set_by), (json!({ "http": 2 }), by(&[("http", "b")])));
    }

    #[test]
    fn lists_that_append_follow_each_other() {
        let (value, set_by) =
            folded(&[("a", json!({ "appendMatch": ["x"] })), ("b", json!({ "appendMatch": ["y", "z"] }))]);
        assert_eq!(value, json!({ "appendMatch": ["x", "y", "z"] }));
        assert_eq!(set_by, by(&[("appendMatch[0]", "a"), ("appendMatch[1]", "b"), ("appendMatch[2]", "b")]));
    }

    #[test]
    fn nobody_sets_nothing() {
        assert_eq!(folded(&[]), (json!({}), by(&[])));
    }
}
