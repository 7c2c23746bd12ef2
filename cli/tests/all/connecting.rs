//! What goes wrong on the way to a control plane, told to people.

use tokio::net::TcpListener;

use crate::support::{ControlPlane, run, run_with};

#[tokio::test]
async fn a_control_plane_proves_itself_by_address_or_by_role() {
    for names in
        [&["127.0.0.1"][..], &["global.tombolo.internal"], &["east.zone.tombolo.internal", "localhost"]]
    {
        let cp = ControlPlane::named(names).await;
        cp.run(&["get", "meshes"]).await.ok();
    }
    let other = ControlPlane::named(&["example.org"]).await;
    let err = other.run(&["get", "meshes"]).await.failed(1);
    assert!(err.contains("its certificate is for another name"), "{err}");
}

#[tokio::test]
async fn another_control_plane_is_not_believed() {
    let (cp, other) = (ControlPlane::start().await, ControlPlane::start().await);
    let address = format!("https://{}", cp.address);
    let (own, foreign) = (cp.dir.path(), other.dir.path());
    let err = run_with(&address, &own.join("admin.token"), &foreign.join("ca.crt"), &["get", "meshes"])
        .await
        .failed(1);
    assert!(err.contains("does not prove to be that control plane"), "{err}");
    assert!(err.contains("\n  check --address, and that --ca"), "{err}");
    let by_role = ControlPlane::named(&["global.tombolo.internal"]).await;
    let address = format!("https://{}", by_role.address);
    let err = run_with(&address, &own.join("admin.token"), &foreign.join("ca.crt"), &["get", "meshes"]).await;
    assert!(err.failed(1).contains("does not prove"));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_told_what_to_do() {
    let cp = ControlPlane::start().await;
    let wrong = cp.file("wrong.token", "somebody-else");
    let address = format!("https://{}", cp.address);
    let ca = cp.dir.path().join("ca.crt");
    let err = run_with(&address, &wrong, &ca, &["get", "meshes"]).await.failed(1);
    assert!(err.contains("this token is not known here") && err.contains("--token-file"), "{err}");
    assert!(!err.contains("somebody-else"), "{err}");
    let empty = cp.file("empty.token", "\n");
    run_with(&address, &empty, &ca, &["get", "meshes"]).await.failed(2);
    let err = run_with(&address, &cp.dir.path().join("none"), &ca, &["get", "meshes"]).await.failed(1);
    assert!(err.starts_with("error: cannot read "), "{err}");
    run_with(&address, &cp.dir.path().join("admin.token"), &empty, &["get", "meshes"]).await.failed(1);
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let cp = ControlPlane::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (token, ca) = (cp.dir.path().join("admin.token"), cp.dir.path().join("ca.crt"));
    let err = run_with(&format!("https://{free}"), &token, &ca, &["get", "meshes"]).await.failed(1);
    assert!(err.starts_with(&format!("error: cannot reach https://{free}: ")), "{err}");
    assert!(err.contains("refused") && err.contains("\n  check --address"), "{err}");
    let err = run_with("http://127.0.0.1:1", &token, &ca, &["get", "meshes"]).await.failed(2);
    assert!(err.contains("does not begin with https://"), "{err}");
}

#[tokio::test]
async fn what_is_missing_is_asked_for() {
    let err = run(&["tombolo", "get", "meshes"]).await.failed(2);
    assert!(err.starts_with("error: no control plane is chosen\n  tombolo context set NAME "), "{err}");
    assert!(err.contains("\n  tombolo context use NAME\n"), "{err}");
    let address = ["tombolo", "get", "meshes", "--address", "127.0.0.1:1"];
    let err = run(&address).await.failed(2);
    assert!(err.contains("no token is given") && err.contains("TOMBOLO_TOKEN_FILE"), "{err}");
    let cp = ControlPlane::start().await;
    let token = cp.dir.path().join("admin.token");
    let mut words = address.to_vec();
    words.extend(["--token-file", token.to_str().unwrap()]);
    let err = run(&words).await.failed(2);
    assert!(err.contains("TOMBOLO_CA"), "{err}");
}
