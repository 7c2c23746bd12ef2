//! `tombolo wait`: until every proxy says that it runs a revision, or who does not and why.

use std::process::ExitCode;
use std::time::Duration;

use api::duration::Span;
use api::shapes::{LateReason, LateState, Progress, RevisionState, ZoneState};
use clap::Args;
use model::Version;
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Cell, Out, Tone, table};
use crate::status;

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What a write answered, such as global-1-812.
    revision: Version,
    /// How long to wait at most.
    #[arg(long, default_value = "30s")]
    timeout: Span,
    /// Do not wait for proxies that nobody hears of: they may run anything.
    #[arg(long)]
    allow_unknown: bool,
}

pub(crate) async fn run(args: WaitArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    report(&client, &args.revision, args.timeout.0, args.allow_unknown, out).await
}

/// Waits, and says how it ended. Not applied is an error in the exit code only.
pub(crate) async fn report(
    client: &Client,
    revision: &Version,
    limit: Duration,
    allow_unknown: bool,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let state = loop {
        let left = limit.saturating_sub(start.elapsed());
        let state: RevisionState = client.get(&poll(revision, left, allow_unknown)).await?;
        let is_final = is_applied(&state, allow_unknown) || state.state == Progress::Refused;
        if is_final || start.elapsed() >= limit {
            break state;
        }
    };
    let applied = is_applied(&state, allow_unknown);
    out.show(&state, || explain(&state, applied, start.elapsed()))?;
    Ok(if applied { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The server answers early only when everyone is done; who does not wait for everyone asks more often.
fn poll(revision: &Version, left: Duration, allow_unknown: bool) -> String {
    let longest = Duration::from_secs(if allow_unknown { 1 } else { 30 });
    format!("/revisions/{revision}?wait={}", Span(left.min(longest)))
}

fn is_applied(state: &RevisionState, allow_unknown: bool) -> bool {
    state.state == Progress::Applied || allow_unknown && state.is_applied_but_for_unknown()
}

fn explain(state: &RevisionState, applied: bool, waited: Duration) -> String {
    let revision = &state.revision;
    let current: u64 = state.zones.iter().map(|zone| zone.proxies.current).sum();
    let unknown: u64 = state.zones.iter().map(|zone| zone.proxies.unknown).sum();
    let seconds = waited.as_secs_f32();
    if applied {
        let rest = if unknown > 0 { format!(", {unknown} unknown") } else { String::new() };
        return format!("{revision} is applied: {current} proxies run it{rest} (after {seconds:.1}s)\n");
    }
    let mut text = match state.state {
        Progress::Refused => {
            let documents = state.refusals.iter().map(|one| format!("  {}\n", status::refusal(one)));
            format!("{revision} is refused\n{}\n", documents.collect::<String>())
        }
        _ => format!("{revision} is not applied everywhere after {seconds:.1}s\n\n"),
    };
    text.push_str(&table(
        &["ZONE", "STATE", "CURRENT", "LATE", "UNKNOWN"],
        state.zones.iter().map(|zone| {
            let proxies = zone.proxies;
            let mut row: Vec<Cell> = vec![zone.name.as_str().into(), zone_state(zone.state)];
            row.push(proxies.current.to_string().into());
            row.extend([proxies.late, proxies.unknown].map(|count| Tone::Bad.count(count)));
            row
        }),
    ));
    if !state.late.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["PROXY", "ZONE", "STATE", "WHY", ""],
            state.late.iter().map(|late| {
                let (state, reason) = (late_state(late.state), late_reason(late.reason));
                vec![
                    late.proxy.as_str().into(),
                    late.zone.as_str().into(),
                    state.into(),
                    reason.into(),
                    late.detail.as_str().into(),
                ]
            }),
        ));
        let all: u64 = state.zones.iter().map(|zone| zone.proxies.late + zone.proxies.unknown).sum();
        let more = all.saturating_sub(state.late.len() as u64);
        if more > 0 {
            text.push_str(&format!("and {more} more\n"));
        }
    }
    text
}

fn zone_state(state: ZoneState) -> Cell {
    match state {
        ZoneState::Applied => Tone::Good.cell("applied"),
        ZoneState::Pending => Tone::Doubtful.cell("pending"),
        ZoneState::Refused => Tone::Bad.cell("refused"),
        ZoneState::Diverged => Tone::Bad.cell("diverged"),
        ZoneState::Offline => Tone::Bad.cell("offline"),
    }
}

pub(crate) fn late_state(state: LateState) -> &'static str {
    match state {
        LateState::Late => "late",
        LateState::Unknown => "unknown",
    }
}

pub(crate) fn late_reason(reason: LateReason) -> &'static str {
    match reason {
        LateReason::Slow => "slow",
        LateReason::Refused => "refused",
        LateReason::Disconnected => "disconnected",
        LateReason::Joining => "joining",
        LateReason::Revoked => "revoked",
    }
}

#[cfg(test)]
mod tests {
    use api::shapes::{LateProxy, ProxyCounts, Refusal, RefusedDocument, ZoneProgress};

    use super::*;
    use crate::output::seen;

    fn state(state: Progress, zones: &[(ZoneState, u64, u64, u64)]) -> RevisionState {
        let zone =
            |(n, (state, current, late, unknown)): (usize, &(ZoneState, u64, u64, u64))| ZoneProgress {
                name: format!("z{n}").parse().unwrap(),
                state: *state,
                proxies: ProxyCounts { current: *current, late: *late, unknown: *unknown },
            };
        let zones = zones.iter().enumerate().map(zone).collect();
        RevisionState {
            revision: "global-1-7".parse().unwrap(),
            state,
            zones,
            late: Vec::new(),
            refusals: Vec::new(),
        }
    }

    #[test]
    fn unknown_proxies_are_passed_over_only_if_asked_and_late_ones_never() {
        use Progress::{Applied, Pending, Refused};
        let cases = [
            ("all", state(Applied, &[(ZoneState::Applied, 2, 0, 0)]), true, true),
            ("one unknown", state(Pending, &[(ZoneState::Pending, 2, 0, 1)]), false, true),
            ("one late", state(Pending, &[(ZoneState::Pending, 2, 1, 1)]), false, false),
            (
                "a zone that has not heard of it",
                state(Pending, &[(ZoneState::Pending, 0, 0, 0)]),
                false,
                false,
            ),
            ("a zone that is away", state(Pending, &[(ZoneState::Offline, 0, 0, 3)]), false, true),
            ("a zone that is held", state(Pending, &[(ZoneState::Diverged, 3, 0, 0)]), false, false),
            ("nobody can say", state(Pending, &[]), false, false),
            ("refused", state(Refused, &[(ZoneState::Applied, 3, 0, 0)]), false, false),
        ];
        for (why, state, strict, lenient) in cases {
            assert_eq!((is_applied(&state, false), is_applied(&state, true)), (strict, lenient), "{why}");
        }
    }

    #[test]
    fn a_document_that_is_refused_is_named_with_what_stays_in_force() {
        let mut refused = state(Progress::Refused, &[]);
        let refusal = |in_force: Option<&str>| RefusedDocument {
            document: "MeshTrafficPermission/default/global//all".into(),
            refusal: Refusal {
                reporter: "east".parse().unwrap(),
                revision: Some("global-1-7".parse().unwrap()),
                reason: "spec: no".into(),
                since: 1,
                in_force: in_force.map(|version| version.parse().unwrap()),
            },
        };
        refused.refusals = vec![refusal(Some("global-1-5")), refusal(None)];
        let page = explain(&refused, false, Duration::ZERO);
        let page = seen(&page, false);
        let what = "  MeshTrafficPermission all of global is refused by zone east: spec: no";
        let lines = [
            "global-1-7 is refused",
            &format!("{what} (global-1-5 stays in force there)"),
            &format!("{what} (no revision of it was ever taken there)"),
        ];
        assert_eq!(page.lines().take(3).collect::<Vec<_>>(), lines);
    }

    #[test]
    fn who_is_late_is_said_with_the_reason() {
        let mut late = state(Progress::Pending, &[(ZoneState::Pending, 2, 1, 0)]);
        late.late.push(LateProxy {
            zone: "z0".parse().unwrap(),
            proxy: "default/web-1".into(),
            state: LateState::Late,
            reason: LateReason::Refused,
            detail: "no such port".into(),
        });
        assert_eq!(
            seen(&explain(&late, false, Duration::from_millis(5_000)), false),
            "global-1-7 is not applied everywhere after 5.0s\n\n\
             ZONE  STATE    CURRENT  LATE  UNKNOWN\n\
             z0    pending  2        1     0\n\n\
             PROXY          ZONE  STATE  WHY\n\
             default/web-1  z0    late   refused  no such port\n"
        );
    }
}
