//! Whether what an owner writes continues what a copy holds: decided on both sides, by points and rolling hashes
//! alone (hashes are compared for equality; only their origin can make them).

use model::Point;

/// The farthest that anything may be ahead: nobody wrote more, and numbers must not run out.
const MOST_AHEAD: u64 = 1 << 40;

/// The farthest that a claim may be ahead and still make its owner begin an epoch: far less, so that what one peer
/// claims is never absurd to the others.
const MOST_CLAIMED: u64 = 1 << 20;

/// Where a copy stands, as the owner sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// On our line, or nowhere yet: it can go on from there.
    OnLine,
    /// On one that ours left: it has to decide whether ours counts.
    Elsewhere,
    /// It was told what is not written here: our history was put back, and goes on in a new epoch.
    PutBack,
}

/// Where a copy stands that was told everything up to `theirs`, which had `hash`. `own` is where our line ends, and
/// `ours` its hash at `theirs`, none where it does not pass there.
pub fn find(theirs: Point, hash: &[u8], own: Point, ours: Option<&[u8]>) -> Found {
    let agrees = ours.is_some_and(|ours| hash.is_empty() || hash == ours);
    if theirs.revision == 0 || agrees {
        Found::OnLine
    } else if theirs.epoch < own.epoch || is_ahead(theirs, own, MOST_CLAIMED) {
        Found::Elsewhere
    } else {
        Found::PutBack
    }
}

/// Whether nobody can have come from one point to another by writing.
pub fn is_absurd(point: Point, from: Point) -> bool {
    is_ahead(point, from, MOST_AHEAD)
}

fn is_ahead(point: Point, from: Point, most: u64) -> bool {
    let ahead = |point: u64, from: u64| point.saturating_sub(from) > most;
    ahead(point.epoch, from.epoch) || ahead(point.revision, from.revision)
}

/// What the holder of a copy makes of what its owner sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judged {
    Follows,
    /// There is no hash to tell by.
    Unproven,
    /// Another history. What is held stays until somebody decides.
    Diverges(String),
    /// Numbers that nobody comes to by writing. To take them over would leave none for what follows.
    Absurd(String),
}

/// Judges a batch that leads to `offered` and says of itself that it goes on from a point with the hash
/// `continues`. `held` is up to where the copy was told, and the hash that came with it.
pub fn judge(held: Option<(Point, &[u8])>, offered: Point, continues: &[u8]) -> Judged {
    let from = held.map_or(Point { epoch: 1, revision: 0 }, |(held, _)| held);
    if is_absurd(offered, from) {
        return Judged::Absurd(format!(
            "it claims to be at {} and was heard up to {}",
            text(offered),
            text(from)
        ));
    }
    let Some((held, hash)) = held.filter(|(held, _)| held.revision > 0) else { return Judged::Follows };
    if offered < held {
        return Judged::Diverges(format!(
            "it was heard up to {} before, and goes up to {} now",
            text(held),
            text(offered)
        ));
    }
    match (hash.is_empty() || continues.is_empty(), hash == continues) {
        (false, true) => Judged::Follows,
        (false, false) => Judged::Diverges(format!("it tells another history up to {}", text(held))),
        (true, _) if offered.epoch == held.epoch => Judged::Unproven,
        (true, _) => Judged::Diverges(format!(
            "it began epoch {} and does not show that this goes on from {}",
            offered.epoch,
            text(held)
        )),
    }
}

fn text(point: Point) -> String {
    format!("revision {} of epoch {}", point.revision, point.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: u64, revision: u64) -> Point {
        Point { epoch, revision }
    }

    #[test]
    fn an_owner_finds_a_copy_on_its_line_or_notices_that_it_was_put_back() {
        use Found::{Elsewhere, OnLine, PutBack};
        let (own, ours) = (point(2, 70), Some(&b"ours"[..]));
        let cases = [
            ("nothing yet", point(0, 0), &b""[..], None, OnLine),
            ("nothing yet, of some epoch", point(9, 0), b"", None, OnLine),
            ("behind", point(2, 60), b"ours", ours, OnLine),
            ("behind, in an earlier epoch", point(1, 40), b"ours", ours, OnLine),
            ("as far, without a hash", point(2, 70), b"", ours, OnLine),
            ("another history", point(2, 60), b"theirs", ours, PutBack),
            ("what an earlier epoch lost", point(1, 55), b"theirs", None, Elsewhere),
            ("what an earlier epoch lost, without a hash", point(1, 55), b"", None, Elsewhere),
            ("another history of an earlier epoch", point(1, 40), b"theirs", ours, Elsewhere),
            ("ahead", point(2, 71), b"theirs", None, PutBack),
            ("ahead, without a hash", point(2, 71), b"", None, PutBack),
            ("of an epoch to come", point(3, 5), b"theirs", None, PutBack),
            ("of an epoch that nobody will see", point(u64::MAX, 5), b"theirs", None, Elsewhere),
            ("of a number that nobody will write", point(2, u64::MAX), b"theirs", None, Elsewhere),
        ];
        for (why, theirs, hash, ours, want) in cases {
            assert_eq!(find(theirs, hash, own, ours), want, "{why}");
        }
    }

    #[test]
    fn a_copy_follows_what_goes_on_from_where_it_is_and_nothing_else() {
        let held = Some((point(1, 7), &b"a"[..]));
        let unknown = Some((point(1, 7), &b""[..]));
        let cases = [
            ("first heard of", None, point(1, 3), &b"x"[..], Some(true)),
            ("heard of, and empty", Some((point(1, 0), &b"a"[..])), point(2, 3), b"x", Some(true)),
            ("goes on", held, point(1, 8), b"a", Some(true)),
            ("the same again", held, point(1, 7), b"a", Some(true)),
            ("a new epoch that goes on from here", held, point(2, 9), b"a", Some(true)),
            ("another history", held, point(1, 8), b"b", Some(false)),
            ("another history in a new epoch", held, point(2, 9), b"b", Some(false)),
            ("with less", held, point(1, 6), b"a", Some(false)),
            ("empty", held, point(1, 0), b"", Some(false)),
            ("a new epoch that shows nothing", held, point(2, 9), b"", Some(false)),
            ("goes on, and shows nothing", held, point(1, 8), b"", None),
            ("goes on from what is not remembered", unknown, point(1, 8), b"a", None),
            ("a new epoch, from what is not remembered", unknown, point(2, 8), b"a", Some(false)),
        ];
        for (why, held, offered, continues, follows) in cases {
            let judged = judge(held, offered, continues);
            let found = match judged {
                Judged::Absurd(_) => panic!("{why}: {judged:?}"),
                Judged::Follows => Some(true),
                Judged::Unproven => None,
                Judged::Diverges(_) => Some(false),
            };
            assert_eq!(found, follows, "{why}");
        }
    }

    #[test]
    fn what_one_peer_claims_is_never_absurd_to_the_others() {
        for ahead in (0..64).map(|bits| 1_u64 << bits) {
            for claimed in [point(1 + ahead, 7), point(1, 7 + ahead)] {
                if find(claimed, b"x", point(1, 7), None) == Found::PutBack {
                    let begun = point(claimed.epoch + 1, claimed.revision);
                    assert_eq!(judge(Some((point(1, 7), b"a")), begun, b"a"), Judged::Follows, "{claimed:?}");
                    assert_eq!(judge(None, begun, b""), Judged::Follows, "{claimed:?}: who is new");
                }
            }
        }
        assert_eq!(find(point(1, 1000), b"x", point(1, 7), None), Found::PutBack);
    }

    #[test]
    fn numbers_that_nobody_comes_to_are_not_taken_over() {
        for held in [None, Some((point(1, 7), &b"a"[..]))] {
            for offered in [point(u64::MAX, u64::MAX), point(1, u64::MAX), point(u64::MAX, 8)] {
                let judged = judge(held, offered, b"a");
                assert!(matches!(judged, Judged::Absurd(_)), "{held:?} {offered:?}: {judged:?}");
            }
        }
    }
}
