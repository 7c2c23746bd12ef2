//! Frames from and to Protobuf.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use model::{BundleNumber, Origin, Point, Version, World};
use proto::sync::v1;
use proto::sync::v1::frame::Kind;

use super::{Chunk, Frame, Heartbeat, Hello, Last, MAX_BODY, MAX_KEY, MAX_NAME, MAX_REASON, Signal};
use crate::batch::{Digest, Entry, Place, Refused};

const MAX_CAPABILITIES: usize = 64;
const MAX_COMPONENTS: usize = 4096;
const MAX_HASH: usize = 64;
const MAX_REQUIRES: usize = 32;

/// A frame that no peer of ours sends.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("too many {0}")]
    TooMany(&'static str),
    #[error("{0} does not parse")]
    Unparsable(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
}

impl Frame {
    /// None for a kind of frame that we do not know yet, which is skipped.
    pub fn from_wire(frame: v1::Frame) -> Result<Option<Self>, Malformed> {
        frame.kind.map(Self::from_kind).transpose()
    }

    fn from_kind(kind: Kind) -> Result<Self, Malformed> {
        Ok(match kind {
            Kind::Hello(hello) => Self::Hello(Hello {
                capabilities: names("capabilities", hello.capabilities, MAX_CAPABILITIES)?,
                generation: hello.generation,
                program: short("program", hello.program, MAX_NAME)?,
            }),
            Kind::Open(open) => Self::Open {
                topic: parse("topic", &open.topic)?,
                opening: open.opening,
                place: Place {
                    have: world(open.have)?,
                    hash: hash(open.hash)?,
                    held: open.held.into_iter().map(held).collect::<Result<_, _>>()?,
                    anew: open.anew,
                },
                window: open.window,
            },
            Kind::Chunk(chunk) => Self::Chunk(Chunk {
                topic: parse("topic", &chunk.topic)?,
                opening: chunk.opening,
                batch: chunk.batch,
                index: chunk.index,
                entries: chunk.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
                removed: chunk.removed.into_iter().map(key).collect::<Result<_, _>>()?,
                last: chunk.last.map(last).transpose()?,
            }),
            Kind::Ack(ack) => Self::Ack {
                topic: parse("topic", &ack.topic)?,
                opening: ack.opening,
                batch: ack.batch,
                world: world(ack.world)?,
                refused: ack.refused.into_iter().map(refused).collect::<Result<_, _>>()?,
            },
            Kind::Hold(hold) => Self::Hold {
                topic: parse("topic", &hold.topic)?,
                opening: hold.opening,
                reason: short("reason", hold.reason, MAX_REASON)?,
            },
            Kind::Heartbeat(heartbeat) => Self::Heartbeat(Heartbeat {
                complete: heartbeat
                    .complete
                    .into_iter()
                    .map(|complete| Ok((parse("topic", &complete.topic)?, world(complete.world)?)))
                    .collect::<Result<_, _>>()?,
                ages: few("ages", heartbeat.ages, MAX_COMPONENTS)?
                    .into_iter()
                    .map(|age| Ok((parse("origin", &age.origin)?, Duration::from_millis(age.age_ms))))
                    .collect::<Result<_, _>>()?,
            }),
            Kind::Subscribe(subscribe) => Self::Subscribe {
                added: names("subscriptions", subscribe.added, usize::MAX)?,
                removed: names("subscriptions", subscribe.removed, usize::MAX)?,
            },
            Kind::Signal(signal) => Self::Signal {
                name: short("name of a signal", signal.name, MAX_NAME)?,
                sequence: signal.sequence,
                signal: Signal {
                    origin: parse("origin", &signal.origin)?,
                    age: Duration::from_millis(signal.age_ms),
                    value: body(signal.value)?,
                },
            },
            Kind::SignalEcho(echo) => Self::SignalEcho { sequence: echo.sequence },
            Kind::Query(query) => Self::Query {
                id: query.id,
                kind: short("kind of question", query.kind, MAX_NAME)?,
                body: body(query.body)?,
            },
            Kind::Reply(reply) => Self::Reply {
                id: reply.id,
                result: match reply.result.ok_or(Malformed::Missing("result"))? {
                    v1::reply::Result::Body(answer) => Ok(body(answer)?),
                    v1::reply::Result::Error(error) => Err(short("error", error, MAX_REASON)?),
                },
            },
            Kind::Credit(credit) => Self::Credit {
                topic: parse("topic", &credit.topic)?,
                opening: credit.opening,
                batch: credit.batch,
                bytes: credit.bytes,
            },
            Kind::Close(close) => Self::Close { reason: short("reason", close.reason, MAX_REASON)? },
        })
    }
}

impl From<Frame> for v1::Frame {
    fn from(frame: Frame) -> Self {
        let kind = match frame {
            Frame::Hello(Hello { capabilities, generation, program }) => {
                Kind::Hello(v1::Hello { capabilities, generation, program })
            }
            Frame::Open { topic, opening, place, window } => Kind::Open(v1::Open {
                topic: topic.to_string(),
                opening,
                have: Some(to_world(&place.have)),
                hash: place.hash,
                held: place
                    .held
                    .into_iter()
                    .map(|(key, digest)| v1::Held { key, digest: Bytes::copy_from_slice(&digest.0) })
                    .collect(),
                window,
                anew: place.anew,
            }),
            Frame::Chunk(chunk) => Kind::Chunk(v1::Chunk {
                topic: chunk.topic.to_string(),
                opening: chunk.opening,
                batch: chunk.batch,
                index: chunk.index,
                entries: chunk.entries.into_iter().map(to_entry).collect(),
                removed: chunk.removed,
                last: chunk.last.map(|last| v1::Last {
                    whole: last.whole,
                    world: Some(to_world(&last.world)),
                    hash: last.hash,
                    continues: last.continues,
                }),
            }),
            Frame::Ack { topic, opening, batch, world, refused } => Kind::Ack(v1::Ack {
                topic: topic.to_string(),
                opening,
                batch,
                world: Some(to_world(&world)),
                refused: refused.into_iter().map(to_refused).collect(),
            }),
            Frame::Hold { topic, opening, reason } => {
                Kind::Hold(v1::Hold { topic: topic.to_string(), opening, reason: cut(reason) })
            }
            Frame::Heartbeat(Heartbeat { complete, ages }) => Kind::Heartbeat(v1::Heartbeat {
                complete: complete
                    .into_iter()
                    .map(|(topic, world)| v1::Complete {
                        topic: topic.to_string(),
                        world: Some(to_world(&world)),
                    })
                    .collect(),
                ages: ages
                    .into_iter()
                    .map(|(origin, age)| v1::Age { origin: origin.to_string(), age_ms: millis(age) })
                    .collect(),
            }),
            Frame::Subscribe { added, removed } => Kind::Subscribe(v1::Subscribe { added, removed }),
            Frame::Signal { name, sequence, signal } => Kind::Signal(v1::Signal {
                name,
                sequence,
                origin: signal.origin.to_string(),
                age_ms: millis(signal.age),
                value: signal.value,
            }),
            Frame::SignalEcho { sequence } => Kind::SignalEcho(v1::SignalEcho { sequence }),
            Frame::Query { id, kind, body } => Kind::Query(v1::Query { id, kind, body }),
            Frame::Reply { id, result } => Kind::Reply(v1::Reply {
                id,
                result: Some(match result {
                    Ok(body) => v1::reply::Result::Body(body),
                    Err(error) => v1::reply::Result::Error(cut(error)),
                }),
            }),
            Frame::Credit { topic, opening, batch, bytes } => {
                Kind::Credit(v1::Credit { topic: topic.to_string(), opening, batch, bytes })
            }
            Frame::Close { reason } => Kind::Close(v1::Close { reason: cut(reason) }),
        };
        Self { kind: Some(kind) }
    }
}

fn entry(entry: v1::Entry) -> Result<Entry, Malformed> {
    Ok(Entry {
        key: key(entry.key)?,
        version: version(&entry.version)?,
        secret: entry.secret,
        requires: names("capabilities", entry.requires, MAX_REQUIRES)?,
        bundle: entry.bundle.map(|number| BundleNumber { incarnation: number.incarnation, n: number.n }),
        body: body(entry.body)?,
    })
}

fn to_entry(entry: Entry) -> v1::Entry {
    v1::Entry {
        key: entry.key,
        version: to_version(entry.version),
        body: entry.body,
        secret: entry.secret,
        requires: entry.requires,
        bundle: entry.bundle.map(|number| v1::BundleNumber { incarnation: number.incarnation, n: number.n }),
    }
}

fn last(last: v1::Last) -> Result<Last, Malformed> {
    Ok(Last {
        whole: last.whole,
        world: world(last.world)?,
        hash: hash(last.hash)?,
        continues: hash(last.continues)?,
    })
}

fn held(held: v1::Held) -> Result<(String, Digest), Malformed> {
    let digest = held.digest.as_ref().try_into().map_err(|_| Malformed::Unparsable("digest"))?;
    Ok((key(held.key)?, Digest(digest)))
}

fn refused(refused: v1::Refused) -> Result<Refused, Malformed> {
    Ok(Refused {
        key: key(refused.key)?,
        version: version(&refused.version)?,
        reason: short("reason", refused.reason, MAX_REASON)?,
        since: refused.since,
        in_force: version(&refused.in_force)?,
    })
}

fn to_refused(refused: Refused) -> v1::Refused {
    v1::Refused {
        key: refused.key,
        version: to_version(refused.version),
        reason: cut(refused.reason),
        since: refused.since,
        in_force: to_version(refused.in_force),
    }
}

fn version(text: &str) -> Result<Option<Version>, Malformed> {
    if text.is_empty() { Ok(None) } else { parse("version", text).map(Some) }
}

fn to_version(version: Option<Version>) -> String {
    version.map(String::from).unwrap_or_default()
}

fn world(world: Option<v1::World>) -> Result<World, Malformed> {
    few("components of a world", world.unwrap_or_default().components, MAX_COMPONENTS)?
        .into_iter()
        .map(|component| {
            let origin: Origin = parse("origin", &component.origin)?;
            Ok((origin, Point { epoch: component.epoch, revision: component.revision }))
        })
        .collect()
}

fn to_world(world: &World) -> v1::World {
    let component = |(origin, point): (&Origin, Point)| v1::Component {
        origin: origin.to_string(),
        epoch: point.epoch,
        revision: point.revision,
    };
    v1::World { components: world.iter().map(component).collect() }
}

fn key(key: String) -> Result<String, Malformed> {
    short("key", key, MAX_KEY)
}

fn body(body: Bytes) -> Result<Bytes, Malformed> {
    if body.len() <= MAX_BODY { Ok(body) } else { Err(Malformed::TooLong("body")) }
}

fn hash(hash: Bytes) -> Result<Bytes, Malformed> {
    if hash.len() <= MAX_HASH { Ok(hash) } else { Err(Malformed::TooLong("hash")) }
}

fn names(what: &'static str, names: Vec<String>, most: usize) -> Result<Vec<String>, Malformed> {
    few(what, names, most)?.into_iter().map(|name| short(what, name, MAX_NAME)).collect()
}

fn few<T>(what: &'static str, items: Vec<T>, most: usize) -> Result<Vec<T>, Malformed> {
    if items.len() <= most { Ok(items) } else { Err(Malformed::TooMany(what)) }
}

fn short(what: &'static str, text: String, most: usize) -> Result<String, Malformed> {
    if text.len() <= most { Ok(text) } else { Err(Malformed::TooLong(what)) }
}

fn parse<T: FromStr>(what: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|_| Malformed::Unparsable(what))
}

/// A reason as it travels: whole characters, at most [`MAX_REASON`] bytes.
fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    reason
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
