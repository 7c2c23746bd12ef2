//! What is not allowed any more: it is gone before anybody says so.

use futures::{StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};

use super::timeouts::{EDGES, Mesh, NONE, SECOND, drip, ends, on_a_worker, stream_of};

#[test]
fn an_answer_that_is_not_taken_is_cut_when_its_caller_is_denied() {
    for edge in EDGES {
        on_a_worker(async {
            let mut mesh = Mesh::new(edge, NONE, NONE).await;
            let mut client = mesh.client().await;
            let response = client.get("/endless").await;
            // As much of it is on its way as fits.
            sleep(SECOND).await;
            for standing in mesh.revoke() {
                timeout(SECOND, standing.unwatched()).await.expect("it goes on");
            }
            assert_eq!(ends(&mesh.catalog, "revoked"), ["result=\"2xx\",flag=\"revoked\"} 1"]);
            assert!(response.into_body().collect().await.is_err());
            assert_eq!(mesh.client().await.get("/").await.status(), StatusCode::FORBIDDEN);
            assert_eq!(mesh.connections.get(), 1, "others on the connection go on");
        });
    }
}

#[test]
fn a_request_that_is_not_answered_yet_is_cut_when_its_caller_is_denied() {
    for edge in EDGES {
        on_a_worker(async {
            let mut mesh = Mesh::new(edge, NONE, NONE).await;
            let mut client = mesh.client().await;
            let (response, ()) = tokio::join!(client.get("/silent"), async {
                sleep(SECOND).await;
                for standing in mesh.revoke() {
                    timeout(SECOND, standing.unwatched()).await.expect("it goes on");
                }
            });
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(ends(&mesh.catalog, "revoked").len(), 1);
        });
    }
}

#[test]
fn an_upload_that_goes_on_after_its_answer_is_cut_when_its_caller_is_denied() {
    for edge in EDGES {
        on_a_worker(async {
            let mut mesh = Mesh::new(edge, NONE, NONE).await;
            let mut client = mesh.client().await;
            let response = client.send("/early", stream_of(drip(1).chain(stream::pending()))).await;
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
            sleep(2 * SECOND).await;
            assert!(ends(&mesh.catalog, "revoked").is_empty());
            for standing in mesh.revoke() {
                timeout(SECOND, standing.unwatched()).await.expect("it goes on");
            }
            assert_eq!(ends(&mesh.catalog, "revoked"), ["result=\"2xx\",flag=\"revoked\"} 1"]);
        });
    }
}
