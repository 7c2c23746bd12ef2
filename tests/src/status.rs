//! A person asks how the mesh is: the command, the global and its zones, all real.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cli::Environment;
use control::Addresses;
use demo::Mesh;
use demo::mesh::LIMIT;
use http::Method;
use serde_json::Value;
use tokio::time;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_says_that_it_is_well_and_names_what_is_not() {
    let mut mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let page = until(&mesh, ExitCode::SUCCESS, "all is well").await;
    assert!(page.contains("every proxy has an identity"), "{page}");
    let ingresses = page.lines().filter(|line| line.ends_with("1 of 1")).count();
    assert_eq!(ingresses, 2, "{page}");

    let (code, told) = run(mesh.zone_addresses("east"), &mesh.zone_dir("east"), &["zone", "list"]).await;
    assert_eq!(code, ExitCode::FAILURE);
    assert_eq!(
        told.lines().next(),
        Some(
            "error: this is zone east, and how the zones are only the global knows: ask it, such as by --context"
        )
    );

    // With the first heartbeat that comes after the zone of the copies was heard.
    time::timeout(LIMIT, copies_have_an_age(&mesh)).await.expect("the copies never have an age");

    mesh.stop_zone("west").await.unwrap();
    until(&mesh, ExitCode::FAILURE, "zone west is stale").await;
    mesh.resume_zone("west").await.unwrap();
    let stopped = mesh.stop_sidecar("cart", "west").await.unwrap();
    until(&mesh, ExitCode::FAILURE, "service default/cart of zone west has no ready endpoint").await;
    mesh.resume_sidecar(stopped).await.unwrap();
    until(&mesh, ExitCode::SUCCESS, "all is well").await;
    mesh.shutdown().await.unwrap();
}

/// East shows of each service of west when west was last heard.
async fn copies_have_an_age(mesh: &Mesh) {
    loop {
        let copies = mesh.zone_api("east").unwrap().request(Method::GET, "/meshservices?zone=west");
        let copies: Value = copies.send().await.unwrap().json().await.unwrap();
        let heard = copies["items"].as_array().unwrap().iter().map(|copy| &copy["status"]["heard"]);
        let ages: Vec<bool> = heard.map(|heard| heard["age_ms"].is_u64()).collect();
        if !ages.is_empty() && ages.iter().all(|has| *has) {
            return;
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// What `tombolo status` shows, as soon as it ends with this code and says this.
pub(crate) async fn until(mesh: &Mesh, code: ExitCode, says: &str) -> String {
    let mut page = String::new();
    let asking = async {
        loop {
            let (ended, shown) = run(mesh.global_addresses(), &mesh.global_dir(), &["status"]).await;
            page = shown;
            if ended == code && page.contains(says) {
                return;
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = time::timeout(LIMIT, asking).await;
    assert!(found.is_ok(), "'{says}' is never said, but:\n{page}");
    page
}

/// What the command does, asked of a control plane with this data folder.
async fn run(of: &Addresses, dir: &Path, line: &[&str]) -> (ExitCode, String) {
    let address = format!("https://{}", of.api);
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (token, ca) = (file("admin.token"), file("ca.crt"));
    let to = ["--address", &address, "--token-file", &token, "--ca", &ca];
    let words = [&["tombolo"], line, &to].concat();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = cli::run(words, &Environment::default(), &mut out, &mut err).await;
    (ended, String::from_utf8([out, err].concat()).unwrap())
}
