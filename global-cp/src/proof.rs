//! Who runs a revision: asked of all zones at once, and put together.

use std::time::Duration;

use api::shapes::{
    LateReason, MOST_LATE, Progress, ProxyCounts, RefusedDocument, RevisionState, ZoneProgress, ZoneState,
};
use api::status::MOST_NAMED;
use api::{NoSuchRevision, Proof};
use control::questions::{REVISION, RevisionAnswer, RevisionQuestion};
use control::revisions;
use futures::future::{BoxFuture, join_all};
use model::document::Unreadable;
use model::kinds::Zone;
use model::{Origin, Version, ZoneName};
use sync::session::AskError;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::zones::{Line, Zones};

/// A question may wait for at most 30 s; longer waits are asked again.
const ROUND: Duration = Duration::from_secs(20);
/// How much longer than its wait an answer may take.
const MARGIN: Duration = Duration::from_secs(2);
/// Between two questions to one zone, where it answers sooner than it was asked to wait.
const PAUSE: Duration = Duration::from_millis(200);

/// One refusal is a refusal; otherwise it is applied when every zone and every proxy says so.
pub fn combine(
    revision: Version,
    answers: Vec<RevisionAnswer>,
    mut refusals: Vec<RefusedDocument>,
) -> RevisionState {
    let mut zones = Vec::new();
    let mut late = Vec::new();
    for answer in answers {
        zones.push(answer.zone);
        late.extend(answer.late);
    }
    zones.sort_by(|a, b| a.name.cmp(&b.name));
    late.sort_by(|a, b| (&a.zone, &a.proxy).cmp(&(&b.zone, &b.proxy)));
    late.truncate(MOST_LATE);
    refusals.truncate(MOST_NAMED);
    let state = if !refusals.is_empty() || zones.iter().any(|zone| zone.state == ZoneState::Refused) {
        Progress::Refused
    } else if zones.iter().all(is_applied) {
        Progress::Applied
    } else {
        Progress::Pending
    };
    RevisionState { revision, state, zones, late, refusals }
}

/// What counts, beside what the zone says, is that none of its proxies is late and none unknown.
fn is_applied(zone: &ZoneProgress) -> bool {
    zone.state == ZoneState::Applied && zone.proxies.late == 0 && zone.proxies.unknown == 0
}

/// Whether the zone would say the same for ever: every proxy has answered, or the zone holds what it has.
fn is_final(answer: &RevisionAnswer) -> bool {
    match answer.zone.state {
        ZoneState::Diverged => true,
        ZoneState::Refused => answer.late.iter().all(|late| late.reason == LateReason::Refused),
        _ => is_applied(&answer.zone),
    }
}

/// What a zone answered, with what only the zone itself could say otherwise put right.
fn of_zone(zone: &ZoneName, mut answer: RevisionAnswer) -> RevisionAnswer {
    answer.zone.name = zone.clone();
    for late in &mut answer.late {
        late.zone = zone.clone();
    }
    answer
}

/// A zone that has another history of the global may have the number of a revision, and not the revision.
fn on_line(mut answer: RevisionAnswer, version: &Version, line: Line) -> RevisionAnswer {
    match line {
        Line::Continues => {}
        _ if version.origin != Origin::Global => {}
        Line::Diverges => answer.zone.state = ZoneState::Diverged,
        Line::Unknown => answer.zone.state = ZoneState::Pending,
    }
    answer
}

fn without_word(zone: &ZoneName, state: ZoneState, proxies: ProxyCounts) -> RevisionAnswer {
    RevisionAnswer { zone: ZoneProgress { name: zone.clone(), state, proxies }, late: Vec::new() }
}

pub(crate) struct GlobalProof {
    zones: Zones,
    /// Nobody is kept waiting by a process that ends.
    stopping: CancellationToken,
}

impl GlobalProof {
    pub(crate) fn new(zones: Zones, stopping: CancellationToken) -> Self {
        Self { zones, stopping }
    }

    async fn prove(&self, version: Version, wait: Duration) -> Result<RevisionState, NoSuchRevision> {
        let deadline = Instant::now() + wait;
        let looked = async {
            let documents = self.zones.documents().await?;
            let is_known = |origin: &Origin| origin.zone().is_some_and(|zone| documents.contains_key(zone));
            let asked = revisions::sought(self.zones.store(), &version, is_known).await?;
            Ok::<_, store::Error>((asked, documents))
        };
        let (asked, documents) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                error!(%error, "the store failed");
                return Ok(RevisionState::not_known(version));
            }
        };
        let asked = asked?;
        // One whose document cannot be read has proxies all the same.
        let counts =
            |document: &Result<Zone, Unreadable>| document.as_ref().map_or(true, |zone| zone.enabled);
        let enabled = documents.into_iter().filter(|(_, document)| counts(document)).map(|(zone, _)| zone);
        // Where one refuses, the others are asked on: who runs it is worth knowing all the more.
        let answers = join_all(enabled.map(|zone| self.zone(zone, &version, &asked, deadline))).await;
        let (answers, refusals): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        Ok(combine(version, answers, refusals.into_iter().flatten().collect()))
    }

    /// What one zone says, once nothing more is to come, or as it is at the deadline or when this process ends; and
    /// what of a revision was refused. `version` is what the zone is asked for.
    async fn zone(
        &self,
        zone: ZoneName,
        revision: &Version,
        version: &Version,
        deadline: Instant,
    ) -> (RevisionAnswer, Vec<RefusedDocument>) {
        let mut comings = self.zones.comings();
        loop {
            comings.mark_unchanged();
            let over = self.stopping.is_cancelled() || Instant::now() >= deadline;
            let wait = if over { Duration::ZERO } else { (deadline - Instant::now()).min(ROUND) };
            let asking = self.ask(&zone, version, wait);
            let answer = tokio::select! {
                biased;
                // What it does is not known, as if it had no session.
                () = self.zones.silence(&zone) => Err(AskError::Disconnected),
                answer = asking => answer,
                () = self.stopping.cancelled(), if !over => continue,
            };
            let heard = self.zones.heard(&zone);
            let (mut answer, is_away) = match answer {
                Ok(answer) => (on_line(of_zone(&zone, answer), version, heard.line), false),
                Err(AskError::Disconnected) => (without_word(&zone, ZoneState::Offline, heard.counts), true),
                Err(error) => {
                    debug!(%zone, %error, "the zone does not say who runs a revision");
                    (without_word(&zone, ZoneState::Pending, heard.counts), false)
                }
            };
            let refusals = self.zones.refusals(&zone, revision).await.unwrap_or_else(|error| {
                error!(%error, "the store failed");
                Vec::new()
            });
            if refusals.iter().any(|one| one.refusal.reporter != Origin::Global) {
                answer.zone.state = ZoneState::Refused;
            }
            if over || is_final(&answer) {
                return (answer, refusals);
            }
            let next = async {
                if is_away {
                    let _ = comings.changed().await;
                } else {
                    time::sleep(PAUSE).await;
                }
            };
            tokio::select! {
                () = next => {}
                () = time::sleep_until(deadline) => return (answer, refusals),
                () = self.stopping.cancelled() => {}
            }
        }
    }

    async fn ask(
        &self,
        zone: &ZoneName,
        version: &Version,
        wait: Duration,
    ) -> Result<RevisionAnswer, AskError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let question = RevisionQuestion { revision: version.clone(), wait_ms };
        let body = serde_json::to_vec(&question).expect("a version and a number are JSON");
        let answer = self.zones.ask(zone, REVISION, body, wait + MARGIN).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| AskError::Refused(format!("its answer cannot be read: {error}")))
    }
}

impl Proof for GlobalProof {
    fn revision(
        &self,
        version: Version,
        wait: Duration,
    ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
        Box::pin(self.prove(version, wait))
    }
}

#[cfg(test)]
mod tests {
    use api::shapes::{LateProxy, LateState};

    use super::*;

    fn answer(zone: &str, state: ZoneState, late: u64, unknown: u64) -> RevisionAnswer {
        without_word(&zone.parse().unwrap(), state, ProxyCounts { current: 1, late, unknown })
    }

    #[test]
    fn a_revision_is_applied_when_everyone_says_so_and_refused_when_anyone_does() {
        use ZoneState::{Applied, Diverged, Offline, Pending, Refused};
        let cases = [
            ("no zones", vec![], Progress::Applied),
            ("all", vec![answer("east", Applied, 0, 0), answer("west", Applied, 0, 0)], Progress::Applied),
            (
                "one is late",
                vec![answer("east", Applied, 0, 0), answer("west", Pending, 1, 0)],
                Progress::Pending,
            ),
            ("one says so in spite of a late proxy", vec![answer("east", Applied, 1, 0)], Progress::Pending),
            (
                "one says so in spite of an unknown proxy",
                vec![answer("east", Applied, 0, 1)],
                Progress::Pending,
            ),
            (
                "one is away",
                vec![answer("east", Applied, 0, 0), answer("west", Offline, 0, 0)],
                Progress::Pending,
            ),
            ("one diverged", vec![answer("east", Diverged, 0, 0)], Progress::Pending),
            (
                "one refused",
                vec![answer("east", Refused, 0, 0), answer("west", Pending, 1, 0)],
                Progress::Refused,
            ),
        ];
        for (why, answers, want) in cases {
            assert_eq!(combine("global-1-1".parse().unwrap(), answers, Vec::new()).state, want, "{why}");
        }
    }

    #[test]
    fn the_late_are_named_up_to_a_limit_and_a_zone_speaks_for_itself() {
        let late = |proxy: usize| LateProxy {
            zone: "elsewhere".parse().unwrap(),
            proxy: format!("default/web-{proxy:04}"),
            state: LateState::Late,
            reason: LateReason::Slow,
            detail: String::new(),
        };
        let answers = ["west", "east"].map(|zone| {
            let mut answer = answer("elsewhere", ZoneState::Pending, 80, 0);
            answer.late = (0..80).map(late).collect();
            of_zone(&zone.parse().unwrap(), answer)
        });
        let state = combine("global-1-1".parse().unwrap(), answers.into(), Vec::new());
        assert_eq!(state.zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>(), ["east", "west"]);
        assert_eq!((state.late.len(), state.late[0].zone.as_str()), (MOST_LATE, "east"));
    }

    #[test]
    fn a_refusal_is_final_when_every_other_proxy_has_answered() {
        let late = |reason| LateProxy {
            zone: "east".parse().unwrap(),
            proxy: "default/web-1".to_owned(),
            state: LateState::Late,
            reason,
            detail: String::new(),
        };
        let cases: [(&[LateReason], bool); 4] = [
            (&[LateReason::Refused], true),
            (&[LateReason::Refused, LateReason::Refused], true),
            (&[LateReason::Refused, LateReason::Slow], false),
            (&[LateReason::Disconnected, LateReason::Refused], false),
        ];
        for (reasons, want) in cases {
            let mut answer = answer("east", ZoneState::Refused, reasons.len() as u64, 0);
            answer.late = reasons.iter().map(|reason| late(*reason)).collect();
            assert_eq!(is_final(&answer), want, "{reasons:?}");
        }
    }

    #[test]
    fn a_zone_with_another_history_proves_nothing_of_ours() {
        use ZoneState::{Applied, Diverged, Pending};
        let cases = [
            (Line::Continues, "global-1-1", Applied),
            (Line::Unknown, "global-1-1", Pending),
            (Line::Diverges, "global-1-1", Diverged),
            (Line::Diverges, "east-1-1", Applied),
        ];
        for (line, version, want) in cases {
            let found = on_line(answer("east", Applied, 0, 0), &version.parse().unwrap(), line);
            assert_eq!(found.zone.state, want, "{line:?} {version}");
        }
    }
}
