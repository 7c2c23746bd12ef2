//! The timeouts in parts, from the MeshTimeouts. What no policy sets is disabled, but connections are made
//! within a time, and idle ones do not stay for ever.

use std::time::Duration;

use model::SectionName;
use model::kinds::{MeshTimeout, mesh_timeout};
use policy::timeout::{self, Service, TimeoutPolicy};

use crate::parts::{ClientTimeouts, Millis, Timeouts};
use crate::proxy::Proxy;
use crate::view::View;

/// Those of a proxy's way to a destination.
pub(super) fn outbound(view: &View, proxy: &Proxy<'_>, service: Service<'_>) -> Timeouts {
    let merged = timeout::outbound(policies(view, proxy), &proxy.as_policy_target(), service);
    part(merged.value, Duration::from_secs(5), Duration::from_secs(3_600))
}

/// Those of one inbound: for everybody, and for some.
pub(super) fn inbound(
    view: &View,
    proxy: &Proxy<'_>,
    section: &SectionName,
) -> (Timeouts, Vec<ClientTimeouts>) {
    let timeouts = timeout::inbound(policies(view, proxy), &proxy.as_policy_target(), section);
    let common = part(timeouts.common.value, Duration::from_secs(10), Duration::from_secs(7_200));
    let of_clients = timeouts.by_client.into_iter().map(|one| ClientTimeouts {
        clients: one.clients,
        request: one.timeouts.request_timeout.map(Millis::from),
        stream_idle: one.timeouts.stream_idle_timeout.map(Millis::from),
    });
    (common, of_clients.collect())
}

pub(super) fn policies<'a>(view: &'a View, proxy: &Proxy<'_>) -> impl Iterator<Item = TimeoutPolicy<'a>> {
    view.of_mesh::<MeshTimeout>(proxy.mesh).map(|(held, spec)| TimeoutPolicy {
        key: &held.key,
        version: &held.version,
        labels: &held.written,
        spec,
    })
}

fn part(set: mesh_timeout::Timeouts, connect: Duration, idle: Duration) -> Timeouts {
    let or_none = |timeout: Option<Duration>| timeout.unwrap_or_default().into();
    Timeouts {
        connect: set.connection_timeout.unwrap_or(connect).into(),
        idle: set.idle_timeout.unwrap_or(idle).into(),
        request: or_none(set.http.request_timeout),
        stream_idle: or_none(set.http.stream_idle_timeout),
        max_stream: or_none(set.http.max_stream_duration),
        max_connection: or_none(set.http.max_connection_duration),
        request_headers: or_none(set.http.request_headers_timeout),
    }
}
