//! The promises of the demo, each proven against a mesh of its own. Tests run side by side, so they allow
//! five times the time that is promised.

use demo::Mesh;
use demo::promises::{ALL, Terms};

use crate::processes;

const SIDE_BY_SIDE: u32 = 5;

async fn keep(number: u32) {
    let promise = ALL.iter().find(|promise| promise.number == number).expect("a promise of that number");
    let mut mesh = Mesh::start(&mut |_| {}).await.expect("the mesh starts");
    let terms = Terms { patience: SIDE_BY_SIDE, program: processes::folder().join("tombolo") };
    if let Err(error) = (promise.keep)(&mut mesh, &terms).await {
        panic!("{}: {error:#}", promise.says);
    }
    mesh.shutdown().await.expect("everything ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_crosses_zones_and_the_application_sees_who_called() {
    keep(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_zones_there_is_tls_and_a_wrong_identity_is_not_spoken_to() {
    keep(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_decide_at_once_on_open_connections_too() {
    keep(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s35_one_zones_authority_cannot_speak_for_anothers_services() {
    keep(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_global_no_request_fails() {
    keep(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_clear_answer_and_everything_runs_on() {
    keep(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_zone_takes_over_and_gives_back_and_nothing_is_lost_that_could_be_had() {
    keep(7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_serves_again_without_its_zone() {
    processes::build().await;
    keep(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_drains_under_load_and_not_one_exchange_fails() {
    keep(9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_restarts_without_the_global_loses_no_endpoint() {
    keep(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_global_that_was_put_back_changes_nothing_before_somebody_accepts_it() {
    keep(11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_zones_control_plane_no_request_through_a_proxy_is_lost() {
    keep(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_whichever_process_is_killed() {
    processes::build().await;
    keep(13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_document_in_the_globals_store_delays_nothing_and_opens_nothing() {
    keep(14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s36_a_zone_that_publishes_what_is_not_its_own_is_refused_and_told() {
    keep(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_names_a_proxy_that_stands_still_until_it_goes_on() {
    processes::build().await;
    keep(16).await;
}

#[test]
fn every_promise_has_a_test() {
    let numbers: Vec<u32> = ALL.iter().map(|promise| promise.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
}
