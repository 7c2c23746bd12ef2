//! How rows are written: a header in JSON, with its length before it, then document bytes as they are.

use bytes::Bytes;
use model::{BundleNumber, DocumentKey, Record, Version, World};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::seal::Sealed;
use crate::tables::{SealedChange, SealedCommit};

/// A row that is not what this program wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a row is cut short")]
    Short,
    #[error("the header of a row is not understood")]
    Header(#[from] serde_json::Error),
}

#[derive(Deserialize, Serialize)]
struct Envelope {
    key: DocumentKey,
    version: Version,
    #[serde(default)]
    secret: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<BundleNumber>,
    /// How many bytes of the body are this document's.
    size: usize,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    /// Not known of those that an earlier version of this program wrote.
    #[serde(default)]
    at: u64,
    world: World,
    changes: Vec<EntryChange>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum EntryChange {
    Put(Envelope),
    Deleted { key: DocumentKey, version: Version },
}

pub(super) fn encode_record(sealed: &Sealed) -> Vec<u8> {
    frame(&envelope(sealed.envelope()), [sealed.envelope().bytes.as_ref()])
}

pub(super) fn decode_record(row: &[u8]) -> Result<Sealed, Malformed> {
    let (header, mut body) = unframe::<Envelope>(row)?;
    record(header, &mut body)
}

pub(super) fn encode_commit(commit: &SealedCommit) -> Vec<u8> {
    let changes = commit.changes.iter().map(|change| match change {
        SealedChange::Put(sealed) => EntryChange::Put(envelope(sealed.envelope())),
        SealedChange::Deleted { key, version } => {
            EntryChange::Deleted { key: key.clone(), version: version.clone() }
        }
    });
    let entry = Entry { at: commit.at, world: commit.world.clone(), changes: changes.collect() };
    let bodies = commit.changes.iter().filter_map(|change| match change {
        SealedChange::Put(sealed) => Some(sealed.envelope().bytes.as_ref()),
        SealedChange::Deleted { .. } => None,
    });
    frame(&entry, bodies)
}

pub(super) fn decode_commit(sequence: u64, row: &[u8]) -> Result<SealedCommit, Malformed> {
    let (Entry { at, world, changes }, mut body) = unframe(row)?;
    let change = |change| match change {
        EntryChange::Put(envelope) => record(envelope, &mut body).map(SealedChange::Put),
        EntryChange::Deleted { key, version } => Ok(SealedChange::Deleted { key, version }),
    };
    let changes = changes.into_iter().map(change).collect::<Result<_, _>>()?;
    Ok(SealedCommit { sequence, at, world, changes })
}

fn envelope(record: &Record) -> Envelope {
    let Record { key, version, secret, requires, bundle, bytes } = record.clone();
    Envelope { key, version, secret, requires, bundle, size: bytes.len() }
}

/// Takes the document's bytes off the front of the body.
fn record(envelope: Envelope, body: &mut &[u8]) -> Result<Sealed, Malformed> {
    let Envelope { key, version, secret, requires, bundle, size } = envelope;
    let (bytes, rest) = body.split_at_checked(size).ok_or(Malformed::Short)?;
    *body = rest;
    let bytes = Bytes::copy_from_slice(bytes);
    Ok(Sealed::from_rest(Record { key, version, secret, requires, bundle, bytes }))
}

fn frame<'a>(header: &impl Serialize, bodies: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let header = serde_json::to_vec(header).expect("headers are plain data with text keys");
    let length = u32::try_from(header.len()).expect("a header is far smaller than 4 GiB");
    let mut row = length.to_be_bytes().to_vec();
    row.extend_from_slice(&header);
    bodies.into_iter().for_each(|body| row.extend_from_slice(body));
    row
}

fn unframe<T: DeserializeOwned>(row: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let (length, rest) = row.split_first_chunk().ok_or(Malformed::Short)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (header, body) = rest.split_at_checked(length).ok_or(Malformed::Short)?;
    Ok((serde_json::from_slice(header)?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(name: &str, bytes: &'static [u8]) -> Sealed {
        Sealed::from_rest(Record {
            key: format!("Mesh//global//{name}").parse().unwrap(),
            version: "global-1-7".parse().unwrap(),
            secret: false,
            requires: vec!["fast".to_owned()],
            bundle: Some(BundleNumber { incarnation: 1, n: 2 }),
            bytes: Bytes::from_static(bytes),
        })
    }

    #[test]
    fn a_transaction_comes_back_as_it_was() {
        let deleted = ("Mesh//global//c".parse::<DocumentKey>().unwrap(), "global-1-8".parse().unwrap());
        let commit = SealedCommit {
            sequence: 9,
            at: 7,
            world: World::default(),
            changes: vec![
                SealedChange::Put(sealed("a", b"one")),
                SealedChange::Deleted { key: deleted.0.clone(), version: deleted.1 },
                SealedChange::Put(sealed("b", b"")),
                SealedChange::Put(sealed("d", b"three")),
            ],
        };
        let row = encode_commit(&commit);
        let back = decode_commit(9, &row).unwrap();
        let shown = |commit: &SealedCommit| {
            let one = |change: &SealedChange| match change {
                SealedChange::Put(sealed) => (sealed.envelope().key.clone(), Some(sealed.envelope().clone())),
                SealedChange::Deleted { key, .. } => (key.clone(), None),
            };
            commit.changes.iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(shown(&back), shown(&commit));
        for cut in 0..row.len() {
            assert!(decode_commit(9, &row[..cut]).is_err(), "{cut}");
        }
    }
}
