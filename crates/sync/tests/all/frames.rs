//! Frames survive the wire, and what is no frame of ours is told apart.

use std::time::Duration;

use bytes::Bytes;
use model::{BundleNumber, Origin, Point, Record, Version, World};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use proto::sync::v1;
use sync::frame::{Chunk, Frame, Heartbeat, Hello, Last, MAX_BODY, MAX_KEY, MAX_REASON, Malformed, Signal};
use sync::{Digest, Entry, Place, Refused, Topic};

proptest! {
    #[test]
    fn frames_survive_the_wire(frame in frame()) {
        let bytes = v1::Frame::from(frame.clone()).encode_to_vec();
        let decoded = v1::Frame::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(Frame::from_wire(decoded), Ok(Some(frame)));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok(frame) = v1::Frame::decode(bytes.as_slice()) {
            let _ = Frame::from_wire(frame);
        }
    }

    #[test]
    fn records_survive_as_entries(version in version(), secret: bool, bundle in option::of(bundle()), body in bytes()) {
        let record = Record {
            key: "MeshService/default/east//catalog".parse().unwrap(),
            version,
            secret,
            requires: vec!["tls-1.3".to_owned()],
            bundle,
            bytes: body,
        };
        prop_assert_eq!(Record::try_from(Entry::from(record.clone())), Ok(record));
    }
}

#[test]
fn a_frame_of_an_unknown_kind_is_skipped() {
    // Field 99 of Frame, empty.
    let frame = v1::Frame::decode(&[0x9a, 0x06, 0x00][..]).unwrap();
    assert_eq!(Frame::from_wire(frame), Ok(None));
}

#[test]
fn what_is_too_large_or_does_not_parse_is_refused() {
    let entry = |key: String, version: &str, body: usize| v1::Entry {
        key,
        version: version.to_owned(),
        body: vec![0; body].into(),
        ..v1::Entry::default()
    };
    let chunk = |entry| {
        v1::frame::Kind::Chunk(v1::Chunk {
            topic: "parts".to_owned(),
            entries: vec![entry],
            ..v1::Chunk::default()
        })
    };
    let cases = [
        (chunk(entry("k".repeat(MAX_KEY + 1), "", 0)), Malformed::TooLong("key")),
        (chunk(entry("k".to_owned(), "", MAX_BODY + 1)), Malformed::TooLong("body")),
        (chunk(entry("k".to_owned(), "east-01-2", 0)), Malformed::Unparsable("version")),
        (v1::frame::Kind::Reply(v1::Reply::default()), Malformed::Missing("result")),
        (v1::frame::Kind::Open(v1::Open::default()), Malformed::Unparsable("topic")),
        (
            v1::frame::Kind::Close(v1::Close { reason: "r".repeat(MAX_REASON + 1) }),
            Malformed::TooLong("reason"),
        ),
        (
            v1::frame::Kind::Hello(v1::Hello {
                capabilities: vec![String::new(); 65],
                ..v1::Hello::default()
            }),
            Malformed::TooMany("capabilities"),
        ),
    ];
    for (kind, malformed) in cases {
        assert_eq!(Frame::from_wire(v1::Frame { kind: Some(kind) }), Err(malformed));
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let frame = v1::Frame::from(Frame::Close { reason: "é".repeat(MAX_REASON) });
    let Ok(Some(Frame::Close { reason })) = Frame::from_wire(frame) else { panic!("it is a close") };
    assert_eq!(reason, "é".repeat(MAX_REASON / 2));
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (vec(text(), 0..4), any::<u64>(), text()).prop_map(|(capabilities, generation, program)| {
            Frame::Hello(Hello { capabilities, generation, program })
        }),
        (topic(), any::<u64>(), place(), any::<u64>())
            .prop_map(|(topic, opening, place, window)| Frame::Open { topic, opening, place, window }),
        chunk().prop_map(Frame::Chunk),
        (topic(), any::<u64>(), any::<u64>(), world(), vec(refused(), 0..4)).prop_map(
            |(topic, opening, batch, world, refused)| Frame::Ack { topic, opening, batch, world, refused }
        ),
        (topic(), any::<u64>(), text()).prop_map(|(topic, opening, reason)| Frame::Hold {
            topic,
            opening,
            reason
        }),
        (vec((topic(), world()), 0..3), vec((origin(), millis()), 0..3))
            .prop_map(|(complete, ages)| Frame::Heartbeat(Heartbeat { complete, ages })),
        (vec(text(), 0..4), vec(text(), 0..4))
            .prop_map(|(added, removed)| Frame::Subscribe { added, removed }),
        (text(), any::<u64>(), origin(), millis(), bytes()).prop_map(
            |(name, sequence, origin, age, value)| {
                Frame::Signal { name, sequence, signal: Signal { origin, age, value } }
            }
        ),
        any::<u64>().prop_map(|sequence| Frame::SignalEcho { sequence }),
        (any::<u64>(), text(), bytes()).prop_map(|(id, kind, body)| Frame::Query { id, kind, body }),
        (any::<u64>(), prop_oneof![bytes().prop_map(Ok), text().prop_map(Err)])
            .prop_map(|(id, result)| Frame::Reply { id, result }),
        (topic(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(topic, opening, batch, bytes)| Frame::Credit { topic, opening, batch, bytes }),
        text().prop_map(|reason| Frame::Close { reason }),
    ]
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let last = (any::<bool>(), world(), hash(), hash()).prop_map(|(whole, world, hash, continues)| Last {
        whole,
        world,
        hash,
        continues,
    });
    (
        topic(),
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
        vec(entry(), 0..4),
        vec(text(), 0..4),
        option::of(last),
    )
        .prop_map(|(topic, opening, batch, index, entries, removed, last)| Chunk {
            topic,
            opening,
            batch,
            index,
            entries,
            removed,
            last,
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    (text(), option::of(version()), any::<bool>(), vec(text(), 0..3), option::of(bundle()), bytes()).prop_map(
        |(key, version, secret, requires, bundle, body)| Entry {
            key,
            version,
            secret,
            requires,
            bundle,
            body,
        },
    )
}

fn place() -> impl Strategy<Value = Place> {
    (world(), hash(), btree_map(text(), any::<[u8; 32]>().prop_map(Digest), 0..4), any::<bool>())
        .prop_map(|(have, hash, held, anew)| Place { have, hash, held, anew })
}

fn refused() -> impl Strategy<Value = Refused> {
    (text(), option::of(version()), text(), any::<u64>(), option::of(version()))
        .prop_map(|(key, version, reason, since, in_force)| Refused { key, version, reason, since, in_force })
}

fn world() -> impl Strategy<Value = World> {
    vec((origin(), point()), 0..4).prop_map(World::from_iter)
}

fn version() -> impl Strategy<Value = Version> {
    (origin(), point()).prop_map(|(origin, point)| Version { origin, point })
}

fn point() -> impl Strategy<Value = Point> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, revision)| Point { epoch, revision })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::Global),
        "z[a-z0-9]{0,8}(-[0-9])?".prop_map(|zone| Origin::Zone(zone.parse().unwrap()))
    ]
}

fn bundle() -> impl Strategy<Value = BundleNumber> {
    (any::<u64>(), any::<u64>()).prop_map(|(incarnation, n)| BundleNumber { incarnation, n })
}

fn topic() -> impl Strategy<Value = Topic> {
    "[a-z0-9/-]{1,12}".prop_map(|topic| topic.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    ".{0,16}"
}

fn hash() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn millis() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}
