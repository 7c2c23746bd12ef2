//! Properties of documents on their way: the bytes are stable, and nothing that somebody sends makes a
//! reader fail otherwise than by saying what is wrong.

use model::document::{
    Address, Defaults, Document, MAX_DEPTH, Tree, Value, canonical, parse_many, parse_one, read, read_at,
};
use model::kinds;
use proptest::prelude::*;
use serde_json::{Map, Value as Json};

/// Words that kinds know, so that the trees get past the first field.
const WORDS: &[&str] = &[
    "type",
    "mesh",
    "name",
    "labels",
    "spec",
    "kind",
    "metadata",
    "apiVersion",
    "networking",
    "address",
    "port",
    "inbound",
    "outbound",
    "backendRef",
    "servicePort",
    "serviceAddress",
    "listeners",
    "gateway",
    "admin",
    "selector",
    "dataplane",
    "dataplaneRef",
    "dataplaneLabels",
    "matchLabels",
    "ports",
    "targetPort",
    "appProtocol",
    "identities",
    "state",
    "value",
    "spiffeID",
    "trustDomain",
    "path",
    "provider",
    "bundled",
    "autogenerate",
    "enabled",
    "caBundles",
    "pem",
    "targetRef",
    "sectionName",
    "rules",
    "default",
    "allow",
    "deny",
    "allowWithShadowDeny",
    "source",
    "zones",
    "workload",
    "sni",
    "http",
    "tombolo.io/zone",
    "kuma.io/zone",
];

const VALUES: &[&str] = &[
    "Mesh",
    "Dataplane",
    "MeshService",
    "MeshIdentity",
    "MeshTrafficPermission",
    "a",
    "A",
    "east",
    "10.0.0.1",
    "::",
    "Exact",
    "Prefix",
    "Bundled",
    "Spire",
    "Ready",
    "tcp",
    "spiffe://td/a",
    "spiffe://td",
    "{{ .Mesh }}",
    "{{",
    "",
    "SpiffeID",
    "Pem",
    "DELEGATED",
    "ZoneIngress",
    "tombolo.io/v1alpha1",
    "1",
];

fn json() -> impl Strategy<Value = Json> {
    let scalar = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-10..70_000_i64).prop_map(Json::from),
        proptest::sample::select(VALUES).prop_map(Json::from),
    ];
    scalar.prop_recursive(6, 60, 6, |inner| {
        let key = proptest::sample::select(WORDS);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::vec((key, inner), 0..8).prop_map(|entries| {
                let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
                Json::Object(entries.collect::<Map<String, Json>>())
            }),
        ]
    })
}

/// Any JSON that a YAML reader takes: no control characters but those that JSON escapes, no byte order marks.
fn any_json() -> impl Strategy<Value = Json> {
    let text = "[ -~\n\t\u{a0}-\u{d7ff}\u{1f300}-\u{1f6ff}]{0,12}";
    let scalar = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        any::<f64>().prop_map(|number| Json::from(number % 9e15)),
        (-1e3..1e3).prop_map(Json::from),
        text.prop_map(Json::from),
    ];
    scalar.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            proptest::collection::hash_map(text, inner, 0..5)
                .prop_map(|entries| Json::Object(entries.into_iter().collect())),
        ]
    })
}

/// Valid documents, with what varies in them.
fn valid() -> impl Strategy<Value = String> {
    let name = "[a-z][a-z0-9]{0,6}";
    let label = proptest::option::of("[a-z0-9]{1,6}");
    let labels = |label: Option<String>| {
        label.map(|label| format!("labels: {{kuma.io/x: '{label}'}}\n")).unwrap_or_default()
    };
    prop_oneof![
        (name, label.clone(), 1..=65535_u32).prop_map(move |(name, label, port)| {
            format!(
                "type: MeshZoneAddress\nname: {name}\n{}spec: {{port: {port}, address: {name}}}",
                labels(label)
            )
        }),
        (name, proptest::collection::btree_set(1..=65535_u32, 0..4)).prop_map(|(name, ports)| {
            let ports: Vec<String> =
                ports.iter().map(|port| format!("{{port: {port}, appProtocol: http}}")).collect();
            format!(
                "mesh: {name}\ntype: MeshService\nname: {name}\nports: [{}]\nstatus: {{x: 1}}",
                ports.join(", ")
            )
        }),
        (name, proptest::collection::vec(name, 1..4), any::<bool>()).prop_map(|(name, workloads, deny)| {
            let list = if deny { "deny" } else { "allow" };
            let matches: Vec<String> =
                workloads.iter().map(|one| format!("{{source: {{workload: {one}}}}}")).collect();
            format!(
                "type: MeshTrafficPermission\nname: {name}\nspec:\n  rules:\n  - default: {{{list}: [{}]}}",
                matches.join(", ")
            )
        }),
    ]
}

fn bytes(tree: &Tree) -> String {
    String::from_utf8(canonical(tree)).expect("JSON is text")
}

fn is_shallow(tree: &Tree, levels: usize) -> bool {
    levels > 0
        && match &tree.value {
            Value::List(items) => items.iter().all(|item| is_shallow(item, levels - 1)),
            Value::Object(entries) => entries.iter().all(|(_, item)| is_shallow(item, levels - 1)),
            _ => true,
        }
}

proptest! {
    #[test]
    fn canonical_bytes_read_back_as_themselves(json in any_json()) {
        let json = serde_json::json!({ "document": json });
        let once = bytes(&Tree::from(json.clone()));
        let by_yaml = parse_one(&once).unwrap();
        prop_assert!(is_shallow(&by_yaml, MAX_DEPTH));
        prop_assert_eq!(&bytes(&by_yaml), &once);
        // However an author lays it out.
        let pretty = serde_json::to_string_pretty(&json).unwrap();
        prop_assert_eq!(&bytes(&parse_one(&pretty).unwrap()), &once);
    }

    #[test]
    fn a_valid_document_is_the_same_after_every_way(text in valid()) {
        let document = read(&parse_one(&text).unwrap(), &Defaults::default()).unwrap();
        let again = parse_one(std::str::from_utf8(&document.canonical()).unwrap()).unwrap();
        let record = document.to_record("east-1-1".parse().unwrap());
        let address = Address {
            kind: document.kind,
            mesh: document.mesh.clone(),
            name: document.name.to_string(),
            origin: Some("east".parse().unwrap()),
        };
        prop_assert_eq!(&read(&again, &Defaults::default()).unwrap(), &document);
        prop_assert_eq!(&read_at(&again, &address).unwrap(), &document);
        prop_assert_eq!(&Document::from_record(&record).unwrap(), &document);
    }

    #[test]
    fn whatever_is_sent_is_read_or_refused_with_reasons(json in json()) {
        let tree = Tree::from(json);
        for kind in kinds::all() {
            let mesh = kind.is_mesh_scoped().then(|| "default".parse().unwrap());
            let address = Address { kind, mesh, name: "a".into(), origin: None };
            match read_at(&tree, &address) {
                Ok(document) => {
                    let record = document.to_record("global-1-1".parse().unwrap());
                    prop_assert_eq!(&Document::from_record(&record).unwrap(), &document);
                }
                Err(violations) => prop_assert!(!violations.is_empty()),
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_fail(text in "[ -~\n\t]{0,200}") {
        let _ = parse_many(&text);
    }
}

/// Each of these would take a quadratic reader a minute and more.
#[test]
fn documents_of_the_largest_size_are_read_in_linear_time() {
    use serde_json::json;
    let many = 60_000;
    let keyed: Map<String, Json> = (0..many).map(|n| (format!("b{n}"), json!("c"))).collect();
    let documents = [
        json!({ "type": "MeshService", "ports": vec![json!({ "port": 1 }); many] }),
        json!({ "type": "MeshService", "ports": (1..many).map(|n| json!({ "port": n })).collect::<Vec<_>>() }),
        json!({ "type": "Zone", "trustDomains": (0..many).map(|n| format!("d{n}")).collect::<Vec<_>>() }),
        json!({ "type": "Zone", "spec": keyed }),
        json!({ "type": "Zone", "labels": keyed }),
        json!({ "type": "MeshTrafficPermission", "rules": vec![json!({}); many] }),
    ];
    for mut json in documents {
        json["name"] = json!("a");
        let tree = Tree::from(json);
        let start = std::time::Instant::now();
        let read = read(&tree, &Defaults::default());
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
        // What is read at all is not larger than a document may be, and an answer is bounded as well.
        assert!(read.err().is_none_or(|violations| (1..=1_000).contains(&violations.len())));
    }
}
