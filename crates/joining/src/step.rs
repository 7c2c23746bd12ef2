//! Decides how a peer gets to its control plane: by what it has, or by its token.

use std::time::SystemTime;

use identity::{Peer, Pin, ServerRole};

use crate::kept::Kept;
use crate::token::{NoToken, Token};

/// What comes next.
#[derive(Debug, Eq, PartialEq)]
pub enum Step {
    /// The certificate that is kept is good: dial.
    Dial,
    /// Exchange the token. If that fails and `otherwise_dial`, what is kept is still to be tried: it is of the
    /// same authority.
    Enrol { otherwise_dial: bool },
    /// Neither is possible before the token file changes.
    Stuck,
}

/// Why there is no way to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum NoWay {
    #[error("{peer} never joined, and has no token to join with")]
    NeverJoined { peer: Peer, source: NoToken },
    #[error("the certificate of {peer} ended, and there is no token to join with anew")]
    Ended { peer: Peer, source: NoToken },
}

/// What is kept, as far as it is looked at here.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    pub peer: &'a Peer,
    pub server: &'a ServerRole,
    pub pin: Pin,
    pub token: &'a str,
    pub not_after: SystemTime,
}

/// What the file says, as far as it is looked at here.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    pub server: &'a ServerRole,
    pub pin: Pin,
    pub digest: &'a str,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// The control plane was reached, and there was no session all the same.
    pub turned_away: bool,
    /// The token by which the last enrolment failed for good, while what is kept could still be tried.
    pub spent: Option<String>,
}

/// Decides for `peer` at `now`.
pub fn step(
    peer: &Peer,
    held: Option<&Held<'_>>,
    shown: Option<&Shown<'_>>,
    experience: &Experience,
    now: SystemTime,
) -> Step {
    let held = held.filter(|held| held.peer == peer && now <= held.not_after);
    match (held, shown) {
        (None, None) => Step::Stuck,
        (None, Some(_)) => Step::Enrol { otherwise_dial: false },
        (Some(_), None) => Step::Dial,
        // Another authority replaces ours for good: the old one may be someone else's by now.
        (Some(held), Some(shown)) if held.pin != shown.pin || held.server != shown.server => {
            Step::Enrol { otherwise_dial: false }
        }
        (Some(held), Some(shown)) => {
            let is_new = held.token != shown.digest && experience.spent.as_deref() != Some(shown.digest);
            if experience.turned_away && is_new { Step::Enrol { otherwise_dial: true } } else { Step::Dial }
        }
    }
}

impl<'a> From<&'a Kept> for Held<'a> {
    fn from(kept: &'a Kept) -> Self {
        Self {
            peer: &kept.peer,
            server: &kept.server,
            pin: kept.pin,
            token: &kept.token,
            not_after: kept.credential().validity().not_after,
        }
    }
}

impl<'a> From<&'a Token> for Shown<'a> {
    fn from(token: &'a Token) -> Self {
        Self { server: &token.server, pin: token.pin, digest: &token.digest }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_kept_is_used_until_it_ends_is_turned_away_or_the_token_names_another_authority() {
        let now = SystemTime::now();
        let (peer, other): (Peer, Peer) =
            ("proxy/default/web-1".parse().unwrap(), "proxy/default/web-2".parse().unwrap());
        let east: ServerRole = "east.zone.tombolo.internal".parse().unwrap();
        let west: ServerRole = "west.zone.tombolo.internal".parse().unwrap();
        let (ours, theirs) = (Pin::of(b"ours"), Pin::of(b"theirs"));
        let later = now + Duration::from_secs(1);
        let held = Held { peer: &peer, server: &east, pin: ours, token: "first", not_after: later };
        let ended = Held { not_after: now - Duration::from_secs(1), ..held.clone() };
        let renamed = Held { peer: &other, ..held.clone() };
        let first = Shown { server: &east, pin: ours, digest: "first" };
        let second = Shown { digest: "second", ..first.clone() };
        let another_ca = Shown { pin: theirs, ..second.clone() };
        let another_zone = Shown { server: &west, ..second.clone() };
        let calm = Experience::default();
        let turned_away = Experience { turned_away: true, spent: None };
        let spent = Experience { turned_away: true, spent: Some("second".into()) };
        let enrol = Step::Enrol { otherwise_dial: false };
        let try_enrol = Step::Enrol { otherwise_dial: true };

        let cases = [
            ("nothing at all", None, None, &calm, Step::Stuck),
            ("the first time", None, Some(&first), &calm, enrol),
            ("ever after", Some(&held), Some(&first), &calm, Step::Dial),
            ("the token file may go", Some(&held), None, &calm, Step::Dial),
            (
                "an ended certificate",
                Some(&ended),
                Some(&first),
                &calm,
                Step::Enrol { otherwise_dial: false },
            ),
            ("an ended certificate alone", Some(&ended), None, &calm, Step::Stuck),
            ("another name", Some(&renamed), Some(&first), &calm, Step::Enrol { otherwise_dial: false }),
            (
                "another authority",
                Some(&held),
                Some(&another_ca),
                &calm,
                Step::Enrol { otherwise_dial: false },
            ),
            ("another zone", Some(&held), Some(&another_zone), &calm, Step::Enrol { otherwise_dial: false }),
            ("a new token while all is well", Some(&held), Some(&second), &calm, Step::Dial),
            ("turned away with the old token", Some(&held), Some(&first), &turned_away, Step::Dial),
            ("turned away, and there is a new token", Some(&held), Some(&second), &turned_away, try_enrol),
            ("the new token is no good either", Some(&held), Some(&second), &spent, Step::Dial),
        ];
        for (why, held, shown, experience, want) in cases {
            assert_eq!(step(&peer, held, shown, experience, now), want, "{why}");
        }
    }
}
