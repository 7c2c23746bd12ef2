//! What takes too long: two proxies in one thread, on our own clock. Requests here, `connections` below.

mod connections;
mod rig;

use std::sync::Arc;

use futures::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use model::Protocol;
use policy::access::ClientMatch;
use snapshot::parts::{ClientTimeouts, Millis, Timeouts};
use tokio::time::{Instant, sleep};

use crate::fixture::{CATALOG, WEB, told};

pub(super) use rig::*;

#[test]
fn a_request_that_is_not_answered_in_time_is_answered_by_the_proxy() {
    let two = Timeouts { request: Millis(2_000), ..NONE };
    let idle = Timeouts { stream_idle: Millis(3_000), request: Millis(60_000), ..NONE };
    let whole_life = Timeouts { max_stream: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (flag, to, rules, at) in [
            ("request-timeout", two, NONE, 2),
            ("request-timeout", NONE, two, 2),
            ("stream-idle-timeout", idle, NONE, 3),
            ("stream-idle-timeout", NONE, idle, 3),
            ("max-stream-duration", whole_life, two, 2),
            ("max-stream-duration", whole_life, NONE, 4),
            ("max-stream-duration", NONE, whole_life, 4),
        ] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let (mut client, start) = (mesh.client().await, Instant::now());
                let response = client.send("/silent", whole("a body that is whole at once")).await;
                assert_eq!((response.status(), seconds(start)), (StatusCode::GATEWAY_TIMEOUT, at), "{flag}");
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let flag = if rules == two { "request-timeout" } else { flag };
                let said = String::from_utf8(body.to_vec()).unwrap();
                assert!(said.contains(&format!(r#""reason":"{flag}""#)), "{said}");
                let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                assert_eq!(ends(by, flag), [format!("result=\"5xx\",flag=\"{flag}\"}} 1")]);
                // The connection is as good as before.
                assert_eq!(client.get("/").await.status(), StatusCode::OK);
            });
        }
    }
}

#[test]
fn a_client_of_grpc_learns_that_its_deadline_is_exceeded() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Grpc, Timeouts { request: Millis(2_000), ..NONE }, NONE).await;
        let request = Request::post("http://catalog/silent").header(CONTENT_TYPE, "application/grpc");
        let response = mesh.client().await.ask(request.body(whole("")).unwrap()).await;
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &"4".parse().unwrap())
        );
    });
}

#[test]
fn after_the_head_of_an_answer_a_limit_resets_it() {
    for edge in EDGES {
        for (path, flag, limit, at) in [
            ("/drip", "request-timeout", Timeouts { request: Millis(2_500), ..NONE }, 2),
            ("/half", "stream-idle-timeout", Timeouts { stream_idle: Millis(3_000), ..NONE }, 4),
            ("/drip", "max-stream-duration", Timeouts { max_stream: Millis(4_500), ..NONE }, 4),
        ] {
            for (to, rules) in [(limit, NONE), (NONE, limit)] {
                on_a_worker(async {
                    let mesh = Mesh::new(edge, to, rules).await;
                    let (mut client, start) = (mesh.client().await, Instant::now());
                    let response = client.get(path).await;
                    assert_eq!(response.status(), StatusCode::OK);
                    assert!(response.into_body().collect().await.is_err(), "{path}");
                    assert_eq!(seconds(start), at, "{edge:?} {path} {flag} {to:?}");
                    let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                    assert_eq!(ends(by, flag), [format!("result=\"2xx\",flag=\"{flag}\"}} 1")]);
                });
            }
        }
    }
}

#[test]
fn a_reader_that_takes_nothing_is_reset_as_well() {
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, Timeouts { stream_idle: Millis(3_000), ..NONE }, NONE).await;
            let response = mesh.client().await.get("/endless").await;
            sleep(2 * SECOND).await;
            assert!(ends(&mesh.web, "stream-idle-timeout").is_empty());
            sleep(2 * SECOND).await;
            assert_eq!(ends(&mesh.web, "stream-idle-timeout").len(), 1);
            assert!(response.into_body().collect().await.is_err());
        });
    }
}

#[test]
fn a_request_that_ends_at_once_takes_no_limits_from_another_on_its_connection() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http2, Timeouts { max_stream: Millis(4_500), ..NONE }, NONE).await;
        let (mut client, start) = (mesh.client().await, Instant::now());
        let long = client.get("/drip").await;
        mesh.outbound.set_endpoints(&id(), Arc::default());
        assert_eq!(client.get("/").await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(long.into_body().collect().await.is_err());
        assert_eq!(seconds(start), 4);
    });
}

#[test]
fn an_upload_that_goes_on_after_its_answer_keeps_its_limits_and_is_told_in_full() {
    let idle = Timeouts { stream_idle: Millis(3_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(idle, NONE), (NONE, idle)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                let response = client.send("/early", stream_of(drip(5).chain(stream::pending()))).await;
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
                sleep(7 * SECOND).await;
                assert!(told(&mesh.web, &["requests_total{"]).is_empty(), "it goes on");
                sleep(2 * SECOND).await;
                let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                assert_eq!(
                    ends(by, "stream-idle-timeout"),
                    ["result=\"2xx\",flag=\"stream-idle-timeout\"} 1"]
                );
                for side in [&mesh.web, &mesh.catalog] {
                    let sent = told(side, &["tombolo_sent_bytes_total{"]);
                    assert!(sent[0].ends_with(" 50"), "{sent:?}");
                }
            });
        }
    }
}

#[test]
fn what_goes_on_is_not_cut_and_a_request_timeout_waits_for_the_whole_request() {
    let limits = Timeouts { request: Millis(2_000), stream_idle: Millis(2_000), ..NONE };
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, limits, limits).await;
            let response = mesh.client().await.send("/", stream_of(drip(10))).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "100");
            let idle = Timeouts { stream_idle: Millis(2_000), ..NONE };
            let mesh = Mesh::new(edge, idle, idle).await;
            let response = mesh.client().await.get("/drip").await;
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1_000);
        });
    }
}

#[test]
fn a_changed_timeout_counts_for_requests_that_begin_after() {
    on_a_worker(async {
        let mut mesh = Mesh::new(Protocol::Http2, Timeouts { request: Millis(10_000), ..NONE }, NONE).await;
        let (mut first, mut second, start) = (mesh.client().await, mesh.client().await, Instant::now());
        let before = async {
            first.get("/silent").await;
            seconds(start)
        };
        let after = async {
            sleep(SECOND).await;
            mesh.change(Timeouts { request: Millis(2_000), ..NONE });
            second.get("/silent").await;
            seconds(start)
        };
        assert_eq!(tokio::join!(before, after), (10, 3));
    });
}

#[test]
fn a_client_may_have_timeouts_of_its_own() {
    let other = CATALOG.parse().unwrap();
    let clients = |id| ClientTimeouts {
        clients: ClientMatch::Exactly(id),
        request: Some(Millis(2_000)),
        stream_idle: None,
    };
    for (id, want) in [(WEB.parse().unwrap(), 2), (other, 9)] {
        on_a_worker(async {
            let rules = Timeouts { request: Millis(9_000), ..NONE };
            let mesh = Mesh::with_clients(Protocol::Http, NONE, rules, vec![clients(id)]).await;
            let start = Instant::now();
            assert_eq!(mesh.client().await.get("/silent").await.status(), StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(seconds(start), want);
        });
    }
}

#[test]
fn the_bytes_of_bodies_are_told_in_both_directions() {
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, NONE, NONE).await;
            let mut client = mesh.client().await;
            for sent in ["", "0123456789", "01234567890123456789"] {
                let response = client.send("/", whole(sent)).await;
                response.into_body().collect().await.unwrap();
            }
            // One that is left in its middle counts as well.
            drop(client.get("/half").await.into_body().frame().await);
            drop(client);
            sleep(SECOND).await;
            for side in [&mesh.web, &mesh.catalog] {
                let sent = told(side, &["tombolo_sent_bytes_total{"]);
                let received = told(side, &["tombolo_received_bytes_total{"]);
                assert!(sent[0].ends_with(" 30") && received[0].ends_with(" 15"), "{sent:?} {received:?}");
            }
        });
    }
}
