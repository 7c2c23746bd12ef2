//! A zone's store is put back to an older copy while the global is away: what its proxies were told since stays in
//! force, until somebody accepts at the zone that it is lost.

use std::path::Path;
use std::time::Duration;

use api::shapes::{AcceptRequest, Hold, Page, RevisionState, ZoneState};
use bytes::Bytes;
use demo::Mesh;
use demo::api_client::ApiClient;
use demo::client::Outcome;
use demo::members::{DENIAL, DENIAL_DOCUMENT};
use demo::mesh::LIMIT;
use http::Method;
use tokio::time;

const NOBODYS: &str = "/meshes/default/meshtrafficpermissions/nobodys";
const NOBODYS_DOCUMENT: &str = "\
type: MeshTrafficPermission
mesh: default
name: nobodys
spec:
  targetRef:
    kind: Dataplane
    labels: {tombolo.io/workload: nobody}
  rules:
  - default:
      deny:
      - source: {workload: nobody}
";

/// Long enough for what is held to get through all the same, and for a proxy to dial several times.
const UNCHANGED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_zone_forgot_stays_denied_by_its_proxies_until_somebody_accepts() {
    let mut mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let (data, copy) = (mesh.zone_dir("west"), mesh.dir().join("west-copy"));
    mesh.stop_zone("west").await.unwrap();
    copy_files(&data, &copy);
    mesh.resume_zone("west").await.unwrap();
    let api = mesh.zone_api("west").unwrap();
    let denied = api.put(DENIAL, DENIAL_DOCUMENT).await.unwrap();
    api.applied(&denied, LIMIT).await.unwrap();
    assert!(is_denied(&mesh).await);

    mesh.stop_global().await.unwrap();
    mesh.stop_zone("west").await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    mesh.resume_zone("west").await.unwrap();
    let api = mesh.zone_api("west").unwrap();
    let hold = held(&api).await;
    assert_eq!(hold.origin.to_string(), "west");
    assert!(hold.have >= denied && hold.offered.point.epoch == 2, "{hold:?}");
    assert!(hold.keys.iter().any(|key| key.contains("of proxy default/cart-1")), "{hold:?}");
    let written = api.put(NOBODYS, NOBODYS_DOCUMENT).await.unwrap();
    assert!(written.point > hold.offered.point, "{written}");
    for wait in [Duration::ZERO, UNCHANGED] {
        let told: RevisionState = api.revision(&written, wait).await.unwrap();
        assert_eq!(told.zones[0].state, ZoneState::Diverged, "{told:?}");
        let cart = told.late.iter().find(|late| late.proxy == "default/cart-1").unwrap();
        assert!(cart.detail.contains("holds what it has"), "{told:?}");
        assert!(is_denied(&mesh).await, "it was taken out");
    }

    let body = AcceptRequest { epoch: hold.offered.point.epoch };
    let response = api.request(Method::POST, "/holds/west").json(&body).send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    api.applied(&written, LIMIT).await.unwrap();
    assert!(!is_denied(&mesh).await, "nobody denies it any more");
    let holds: Page<Hold> = api.get("/holds").await.unwrap();
    assert_eq!(holds.items, []);
    mesh.shutdown().await.unwrap();
}

/// What all sidecars of the zone hold, once they said so.
async fn held(api: &ApiClient) -> Hold {
    let mut last = Vec::new();
    let asking = async {
        loop {
            let holds: Page<Hold> = api.get("/holds").await.unwrap();
            last = holds.items;
            if let Some(hold) = last.iter().find(|hold| hold.keys.iter().any(|key| key.contains("cart-1"))) {
                return hold.clone();
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    let asked = time::timeout(LIMIT, asking).await;
    asked.unwrap_or_else(|_| panic!("nothing is held but {last:?}"))
}

async fn is_denied(mesh: &Mesh) -> bool {
    let call = mesh.traffic().call("frontend", "cart", "west").unwrap();
    matches!(call.once(Method::GET, "/closed", Bytes::new()).await.unwrap(), Outcome::Denied { .. })
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
