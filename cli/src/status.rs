//! `tombolo status`: one page that says whether the mesh is well, what is not, and where to look closer.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::shapes::{Connection, Hold, LateState, Page, Refusal, RefusedDocument};
use api::status::{CutOff, EndingCertificate, MeshStatus, Remedy, ZoneReport, ZoneStatus};
use model::{DocumentKey, Origin};
use serde::Serialize;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Cell, Out, Tone, ago, span, table};
use crate::wait::{late_reason, late_state};
use crate::zone;

pub(crate) async fn run(client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let status: MeshStatus = client.get("/status").await?;
    let holds: Page<Hold> = client.get("/holds").await?;
    let mut findings = findings(&status, SystemTime::now());
    findings.extend(holds.items.iter().map(held));
    let is_well = findings.is_empty();
    out.show(&Whole { is_well, findings: &findings, status: &status }, || page(&status, &findings))?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(rename = "well")]
    is_well: bool,
    findings: &'a [Finding],
    #[serde(flatten)]
    status: &'a MeshStatus,
}

/// Something that is not well.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct Finding {
    what: String,
    /// The command that tells more.
    look: String,
}

/// Of one sort in one zone, by name.
const MOST: usize = 5;

fn findings(status: &MeshStatus, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(
        status
            .control_plane
            .certificates
            .iter()
            .map(|ending| ends(ending, now, "tombolo status -o yaml".into())),
    );
    found.extend(status.control_plane.unread.iter().map(unread));
    let unwritable = status.control_plane.unwritable.as_ref();
    found.extend(unwritable.map(|why| takes_no_writes(&status.control_plane.name, why)));
    found.extend(status.control_plane.cut_off.as_ref().map(|why| cut_off(&status.control_plane.name, why)));
    // One that stands alone needs no door.
    let needs_ingress = status.zones.len() > 1;
    for zone in &status.zones {
        of_zone(zone, needs_ingress, now, &mut found);
    }
    found
}

fn unread(unread: &RefusedDocument) -> Finding {
    let RefusedDocument { document, refusal: Refusal { reporter: by, reason, .. } } = unread;
    let (document, look) = named(document);
    let what = format!("{document} got past the API into the store of {by}, and is not understood: {reason}");
    Finding { what, look: look.unwrap_or_else(|| "tombolo status -o yaml".into()) }
}

fn takes_no_writes(of: &Origin, why: &str) -> Finding {
    let of = control_plane(of);
    let what = format!("the store of {of} takes no writes, and everything else goes on: {why}");
    Finding { what, look: "df -h (of its data folder, where it runs; or look at its log)".into() }
}

fn cut_off(zone: &Origin, CutOff { reason, remedy }: &CutOff) -> Finding {
    let look = match remedy {
        Remedy::Address => {
            format!("tombolo zone list (asked of the global; or look at --global of zone {zone})")
        }
        Remedy::Global => "tombolo zone list (asked of the global)".to_owned(),
        Remedy::Standing => format!(
            "tombolo get zone {zone} (asked of the global; one that is enabled there needs a new token: \
             tombolo token zone --zone {zone})"
        ),
        Remedy::Token => {
            format!("tombolo token zone --zone {zone} (asked of the global: only a new token helps)")
        }
    };
    Finding { what: format!("zone {zone} has no session with its global: {reason}"), look }
}

/// A document by its key, and how to look at it.
fn named(document: &str) -> (String, Option<String>) {
    let Ok(key) = document.parse::<DocumentKey>() else { return (document.to_owned(), None) };
    let kind = key.kind.as_str().to_ascii_lowercase();
    let mesh = key.mesh.as_ref().map(|mesh| format!(" --mesh {mesh}")).unwrap_or_default();
    let look = format!("tombolo describe {kind} {}{mesh} --zone {}", key.name, key.origin);
    // What only newer programs know nobody can ask for.
    let is_known = model::kinds::by_name(key.kind.as_str()).is_some();
    (format!("{} {} of {}", key.kind, key.name, key.origin), is_known.then_some(look))
}

fn held(Hold { origin, reason, .. }: &Hold) -> Finding {
    let what = format!("what {origin} says is held back here: {reason}");
    Finding { what, look: format!("tombolo zone accept {origin}") }
}

fn of_zone(status: &ZoneStatus, needs_ingress: bool, now: SystemTime, found: &mut Vec<Finding>) {
    let zone = &status.overview.name;
    let mut find = |what: String, look: String| found.push(Finding { what, look });
    let heard = heard(status);
    match (status.overview.state, &status.report) {
        (Connection::Offline, _) => {
            find(format!("zone {zone} is offline: heard {heard}"), "tombolo zone list".into());
        }
        (Connection::Stale, _) => {
            find(format!("zone {zone} is stale: heard {heard}"), "tombolo zone list".into())
        }
        (Connection::Connected, None) => {
            find(format!("zone {zone} does not say how it is"), format!("tombolo get zone {zone} -o yaml"));
        }
        (Connection::Connected, Some(_)) => {}
    }
    if status.diverged {
        let what =
            format!("zone {zone} holds another history than this control plane, and takes nothing from it");
        find(what, format!("tombolo zone accept global (asked of zone {zone})"));
    }
    for refused in &status.refused {
        let (_, look) = named(&refused.document);
        let look = look.unwrap_or_else(|| format!("tombolo describe zone {zone}"));
        find(refusal(refused), look);
    }
    let Some(report) = &status.report else {
        let counts = status.overview.proxies;
        let proxies = counts.current + counts.late + counts.unknown;
        if proxies > 0 && status.overview.state != Connection::Connected {
            let what =
                format!("nobody knows what the proxies of zone {zone} run (when it was heard: {proxies})");
            find(what, "tombolo zone list".into());
        }
        return;
    };
    let unwritable = report.unwritable.as_ref();
    found.extend(unwritable.map(|why| takes_no_writes(&Origin::Zone(zone.clone()), why)));
    of_report(zone.as_str(), report, needs_ingress, now, found);
}

/// Which document is refused, by whom, why, and what counts there instead.
pub(crate) fn refusal(RefusedDocument { document, refusal }: &RefusedDocument) -> String {
    let (what, _) = named(document);
    format!("{what} is refused by {}", refused_by(refusal))
}

/// Who refuses, why, and what counts there instead.
pub(crate) fn refused_by(Refusal { reporter, reason, in_force, .. }: &Refusal) -> String {
    let by = control_plane(reporter);
    let instead = match in_force {
        Some(version) => format!("{version} stays in force there"),
        None => "no revision of it was ever taken there".to_owned(),
    };
    format!("{by}: {reason} ({instead})").replace(char::is_control, "\u{fffd}")
}

fn control_plane(origin: &Origin) -> String {
    match origin {
        Origin::Global => "the global".to_owned(),
        Origin::Zone(zone) => format!("zone {zone}"),
    }
}

fn of_report(
    zone: &str,
    report: &ZoneReport,
    needs_ingress: bool,
    now: SystemTime,
    found: &mut Vec<Finding>,
) {
    let inspect = |proxy: &str| {
        let (mesh, name) = proxy.split_once('/').unwrap_or(("default", proxy));
        format!("tombolo inspect dataplane {name} --mesh {mesh} --zone {zone}")
    };
    for late in report.late.iter().take(MOST) {
        let (proxy, state, reason) = (&late.proxy, late_state(late.state), late_reason(late.reason));
        let detail = if late.detail.is_empty() { String::new() } else { format!(": {}", late.detail) };
        let what = match late.state {
            LateState::Late => format!("proxy {proxy} of zone {zone} is {state} ({reason}{detail})"),
            LateState::Unknown => {
                format!("what proxy {proxy} of zone {zone} runs is not known ({reason}{detail})")
            }
        };
        found.push(Finding { what, look: inspect(proxy) });
    }
    found.extend(more(report.late.len(), "proxies", zone));
    for service in report.services_without_endpoints.iter().take(MOST) {
        let (mesh, name) = service.split_once('/').unwrap_or(("default", service));
        found.push(Finding {
            what: format!("service {service} of zone {zone} has no ready endpoint"),
            look: format!("tombolo describe meshservice {name} --mesh {mesh} --zone {zone}"),
        });
    }
    found.extend(more(report.services_without_endpoints.len(), "services", zone));
    for proxy in report.proxies_without_identity.iter().take(MOST) {
        let mesh = proxy.split_once('/').map_or("default", |(mesh, _)| mesh);
        found.push(Finding {
            what: format!("proxy {proxy} of zone {zone} has no identity: no MeshIdentity selects it"),
            look: format!("tombolo get meshidentities --mesh {mesh} -o wide"),
        });
    }
    found.extend(more(report.proxies_without_identity.len(), "proxies", zone));
    let look = format!("tombolo get meshzoneaddresses --zone {zone} -o wide");
    for ingress in report.ingresses.iter().filter(|ingress| !ingress.connected) {
        let (name, address) = (&ingress.name, &ingress.address);
        let what = format!("ingress {name} of zone {zone} ({address}) is not connected");
        found.push(Finding { what, look: look.clone() });
    }
    if needs_ingress && report.ingresses.is_empty() && report.services > 0 {
        let what = format!("zone {zone} has services and no ingress: other zones cannot reach them");
        found.push(Finding { what, look });
    }
    for ending in report.certificates.iter().take(MOST) {
        let look = match ending.of.split_once(' ') {
            Some(("proxy", proxy)) => inspect(proxy),
            // Its own API tells why it cannot come through.
            Some(("zone", _)) => format!("tombolo status (asked of zone {zone})"),
            _ => format!("tombolo get meshtrusts --zone {zone} -o yaml"),
        };
        found.push(ends(ending, now, look));
    }
    found.extend(more(report.certificates.len(), "certificates", zone));
}

/// One page has no room for all.
fn more(count: usize, what: &str, zone: &str) -> Option<Finding> {
    let more = count.checked_sub(MOST).filter(|more| *more > 0)?;
    Some(Finding {
        what: format!("so it is with {more} more {what} of zone {zone}"),
        look: "tombolo status -o yaml".into(),
    })
}

fn ends(ending: &EndingCertificate, now: SystemTime, look: String) -> Finding {
    let of = &ending.of;
    let what = match (UNIX_EPOCH + Duration::from_secs(ending.ends)).duration_since(now) {
        Ok(left) => format!("the certificate of {of} ends in {} and was not renewed", span(left)),
        Err(past) => format!("the certificate of {of} ended {}", ago(past.duration())),
    };
    Finding { what, look }
}

fn heard(zone: &ZoneStatus) -> String {
    zone.overview.age_ms.map_or_else(|| "never".into(), |age| ago(Duration::from_millis(age)))
}

fn page(status: &MeshStatus, findings: &[Finding]) -> String {
    let control_plane = &status.control_plane;
    let name = match &control_plane.name {
        Origin::Global => "global".to_owned(),
        Origin::Zone(zone) => format!("zone {zone}"),
    };
    let uptime = span(Duration::from_millis(control_plane.uptime_ms));
    let mut text = format!("control plane of {name}, version {}, up {uptime}\n\n", control_plane.version);
    if status.zones.is_empty() {
        text.push_str("no zone has joined\n\n");
    } else {
        text.push_str(&zones(&status.zones));
        text.push('\n');
        text.push_str(&identities(&status.zones));
        text.push('\n');
    }
    match findings.len() {
        0 => text.push_str(&format!("{}\n", Tone::Good.paint("all is well"))),
        1 => text.push_str(&format!("{}\n", Tone::Bad.paint("one thing is not well:"))),
        n => text.push_str(&format!("{}\n", Tone::Bad.paint(&format!("{n} things are not well:")))),
    }
    for Finding { what, look } in findings {
        // What others said must not move a terminal's cursor.
        let what = what.replace(char::is_control, "\u{fffd}");
        text.push_str(&format!("\n  {what}\n    {look}\n"));
    }
    text
}

fn zones(zones: &[ZoneStatus]) -> String {
    table(
        &["ZONE", "STATE", "HEARD", "CURRENT", "LATE", "UNKNOWN", "SERVICES", "INGRESSES"],
        zones.iter().map(|status| {
            let proxies = status.overview.proxies;
            let mut row: Vec<Cell> = vec![
                status.overview.name.as_str().into(),
                zone::state(status.overview.state),
                heard(status).into(),
            ];
            row.push(proxies.current.to_string().into());
            row.extend([proxies.late, proxies.unknown].map(|count| Tone::Bad.count(count)));
            match &status.report {
                Some(report) => {
                    let services = report.services_without_endpoints.len();
                    let tone = if services > 0 { Tone::Bad } else { Tone::Plain };
                    row.push(tone.cell(report.services.to_string()));
                    let connected = report.ingresses.iter().filter(|ingress| ingress.connected).count();
                    let tone = if connected < report.ingresses.len() { Tone::Bad } else { Tone::Plain };
                    row.push(tone.cell(format!("{connected} of {}", report.ingresses.len())));
                }
                None => row.extend(["?".into(), "?".into()]),
            }
            row
        }),
    )
}

fn identities(zones: &[ZoneStatus]) -> String {
    let reports = zones.iter().filter_map(|zone| Some((zone.overview.proxies, zone.report.as_ref()?)));
    let (mut proxies, mut without) = (0, 0);
    for (counts, report) in reports {
        proxies += counts.current + counts.late + counts.unknown;
        without += report.proxies_without_identity.len() as u64;
    }
    match (proxies, without) {
        (0, _) => "no proxy has joined\n".to_owned(),
        (_, 0) => "every proxy has an identity: all their traffic is mutually authenticated\n".to_owned(),
        (_, without) => format!("{}\n", Tone::Bad.paint(&format!("{without} proxies have no identity"))),
    }
}

#[cfg(test)]
mod tests {
    use api::shapes::{LateProxy, LateReason, ProxyCounts, ZoneOverview};
    use api::status::{ControlPlane, IngressStatus};

    use super::*;
    use crate::output::seen;

    const NOW: SystemTime = UNIX_EPOCH;

    fn zone(name: &str, state: Connection, report: Option<ZoneReport>) -> ZoneStatus {
        let proxies = ProxyCounts { current: 2, late: 0, unknown: 0 };
        let overview = ZoneOverview { name: name.parse().unwrap(), state, age_ms: Some(7_000), proxies };
        ZoneStatus { overview, diverged: false, refused: Vec::new(), report }
    }

    fn ingress(name: &str, connected: bool) -> IngressStatus {
        IngressStatus { name: name.into(), address: "10.0.0.1:10001".into(), connected }
    }

    fn well() -> ZoneReport {
        ZoneReport { services: 2, ingresses: vec![ingress("a", true)], ..ZoneReport::default() }
    }

    fn mesh(zones: Vec<ZoneStatus>) -> MeshStatus {
        let control_plane = ControlPlane {
            name: Origin::Global,
            version: "0.1.0".into(),
            uptime_ms: 7_300_000,
            certificates: Vec::new(),
            unread: Vec::new(),
            unwritable: None,
            cut_off: None,
        };
        MeshStatus { control_plane, zones }
    }

    #[test]
    fn a_mesh_that_is_well_says_so_on_one_page() {
        let zones = ["east", "west"].map(|name| zone(name, Connection::Connected, Some(well()))).to_vec();
        let status = mesh(zones);
        let findings = findings(&status, NOW);
        assert_eq!(
            seen(&page(&status, &findings), false),
            "control plane of global, version 0.1.0, up 2h\n\n\
             ZONE  STATE      HEARD   CURRENT  LATE  UNKNOWN  SERVICES  INGRESSES\n\
             east  connected  7s ago  2        0     0        2         1 of 1\n\
             west  connected  7s ago  2        0     0        2         1 of 1\n\n\
             every proxy has an identity: all their traffic is mutually authenticated\n\n\
             all is well\n"
        );
    }

    #[test]
    fn a_document_that_is_not_understood_is_named_and_shown_where_somebody_can() {
        let unread = |document: &str| RefusedDocument {
            document: document.into(),
            refusal: Refusal {
                reporter: Origin::Global,
                revision: None,
                reason: "the bytes are not JSON".into(),
                since: 0,
                in_force: None,
            },
        };
        let mut status = mesh(Vec::new());
        status.control_plane.unread =
            vec![unread("MeshTrafficPermission/default/global//bad"), unread("Future//global//x")];
        let found = findings(&status, NOW);
        assert_eq!(
            found[0],
            Finding {
                what: "MeshTrafficPermission bad of global got past the API into the store of global, and is not \
                       understood: the bytes are not JSON"
                    .into(),
                look: "tombolo describe meshtrafficpermission bad --mesh default --zone global".into(),
            }
        );
        assert_eq!(found[1].look, "tombolo status -o yaml");
    }

    #[test]
    fn a_zone_says_why_it_is_cut_off() {
        let mut status = mesh(vec![zone("east", Connection::Connected, Some(well()))]);
        status.control_plane.name = "east".parse().unwrap();
        for (remedy, look) in [
            (Remedy::Address, "tombolo zone list (asked of the global; or look at --global of zone east)"),
            (Remedy::Global, "tombolo zone list (asked of the global)"),
            (
                Remedy::Standing,
                "tombolo get zone east (asked of the global; one that is enabled there needs a new token: \
                 tombolo token zone --zone east)",
            ),
            (Remedy::Token, "tombolo token zone --zone east (asked of the global: only a new token helps)"),
        ] {
            status.control_plane.cut_off = Some(CutOff { reason: "it is so".into(), remedy });
            let found = findings(&status, NOW);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].what, "zone east has no session with its global: it is so");
            assert_eq!(found[0].look, look);
        }
    }

    #[test]
    fn a_store_that_takes_no_writes_is_a_finding_of_the_control_plane_and_of_a_zone() {
        let full = Some("the disk is full".to_owned());
        let mut status = mesh(vec![zone("east", Connection::Connected, Some(well()))]);
        status.control_plane.unwritable.clone_from(&full);
        status.zones[0].report.as_mut().unwrap().unwritable = full;
        let whats: Vec<String> = findings(&status, NOW).into_iter().map(|found| found.what).collect();
        let says =
            |of| format!("the store of {of} takes no writes, and everything else goes on: the disk is full");
        assert_eq!(whats, [says("the global"), says("zone east")]);
    }

    #[test]
    fn each_fault_is_found_with_the_command_to_look_closer() {
        let with = |change: fn(&mut ZoneReport)| {
            let mut report = well();
            change(&mut report);
            zone("east", Connection::Connected, Some(report))
        };
        let refused = RefusedDocument {
            document: "MeshTrust/default/east//trust".into(),
            refusal: Refusal {
                reporter: Origin::Global,
                revision: None,
                reason: "it is older".into(),
                since: 0,
                in_force: Some("east-1-3".parse().unwrap()),
            },
        };
        let late = |state, reason, detail: &str| LateProxy {
            zone: "east".parse().unwrap(),
            proxy: "shop/web-1".into(),
            state,
            reason,
            detail: detail.into(),
        };
        let cases = [
            (
                zone("east", Connection::Stale, Some(well())),
                "zone east is stale: heard 7s ago",
                "tombolo zone list",
            ),
            (
                zone("east", Connection::Connected, None),
                "zone east does not say how it is",
                "tombolo get zone east -o yaml",
            ),
            (
                ZoneStatus { diverged: true, ..with(|_| {}) },
                "zone east holds another history than this control plane, and takes nothing from it",
                "tombolo zone accept global (asked of zone east)",
            ),
            (
                ZoneStatus { refused: vec![refused], ..with(|_| {}) },
                "MeshTrust trust of east is refused by the global: it is older (east-1-3 stays in force there)",
                "tombolo describe meshtrust trust --mesh default --zone east",
            ),
            (
                with(|report| report.services_without_endpoints.push("shop/cart".into())),
                "service shop/cart of zone east has no ready endpoint",
                "tombolo describe meshservice cart --mesh shop --zone east",
            ),
            (
                with(|report| report.proxies_without_identity.push("shop/web-1".into())),
                "proxy shop/web-1 of zone east has no identity: no MeshIdentity selects it",
                "tombolo get meshidentities --mesh shop -o wide",
            ),
            (
                with(|report| report.ingresses.push(ingress("b", false))),
                "ingress b of zone east (10.0.0.1:10001) is not connected",
                "tombolo get meshzoneaddresses --zone east -o wide",
            ),
            (
                with(|report| report.ingresses.clear()),
                "zone east has services and no ingress: other zones cannot reach them",
                "tombolo get meshzoneaddresses --zone east -o wide",
            ),
            (
                with(|report| {
                    report.certificates.push(EndingCertificate { of: "proxy shop/web-1".into(), ends: 60 })
                }),
                "the certificate of proxy shop/web-1 ends in 60s and was not renewed",
                "tombolo inspect dataplane web-1 --mesh shop --zone east",
            ),
            (
                with(|report| {
                    report
                        .certificates
                        .push(EndingCertificate { of: "zone east at the global".into(), ends: 60 })
                }),
                "the certificate of zone east at the global ends in 60s and was not renewed",
                "tombolo status (asked of zone east)",
            ),
        ];
        for (broken, what, look) in cases {
            let other = zone("west", Connection::Connected, Some(well()));
            let found = findings(&mesh(vec![broken, other]), NOW);
            assert_eq!(found, [Finding { what: what.into(), look: look.into() }]);
        }
        let mut report = well();
        report.late = vec![
            late(LateState::Late, LateReason::Refused, "listeners: port 80 is in use"),
            late(LateState::Unknown, LateReason::Disconnected, ""),
        ];
        let found = findings(&mesh(vec![zone("east", Connection::Connected, Some(report))]), NOW);
        let whats: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "proxy shop/web-1 of zone east is late (refused: listeners: port 80 is in use)",
                "what proxy shop/web-1 of zone east runs is not known (disconnected)"
            ]
        );
        let mut report = well();
        report.services_without_endpoints = (0..8).map(|n| format!("shop/s{n}")).collect();
        let found = findings(&mesh(vec![zone("east", Connection::Connected, Some(report))]), NOW);
        assert_eq!(found.len(), 6);
        assert_eq!(found[5].what, "so it is with 3 more services of zone east");
        let away = findings(&mesh(vec![zone("east", Connection::Offline, None)]), NOW);
        assert_eq!(away[0].what, "zone east is offline: heard 7s ago");
        assert_eq!(away[1].what, "nobody knows what the proxies of zone east run (when it was heard: 2)");
        // A zone that stands alone needs no ingress.
        let mut alone = well();
        alone.ingresses.clear();
        assert_eq!(findings(&mesh(vec![zone("east", Connection::Connected, Some(alone))]), NOW), []);
    }
}
