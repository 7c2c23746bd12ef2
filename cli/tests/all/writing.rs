//! `apply`, `get`, `delete`.

use crate::support::ControlPlane;

const MESH: &str = "type: Mesh\nname: default\n";

const PERMISSION: &str = "\
type: MeshTrafficPermission
mesh: default
name: web
spec:
  rules:
  - default:
      allow:
      - spiffeID: {type: Prefix, value: 'spiffe://default.east.mesh.local/workload/web'}
";

#[tokio::test]
async fn documents_of_a_folder_are_applied_meshes_first_and_again_without_change() {
    let cp = ControlPlane::start().await;
    cp.file("shop/a.yaml", PERMISSION);
    cp.file("shop/later/mesh.yaml", MESH);
    let folder = cp.dir.path().join("shop");
    let apply = ["apply", "-f", folder.to_str().unwrap()];
    assert_eq!(
        cp.run(&apply).await.ok(),
        "KIND                   NAME         RESULT   REVISION\n\
         Mesh                   default      created  global-1-1\n\
         MeshTrafficPermission  default/web  created  global-1-2\n"
    );
    let again = cp.run(&apply).await.ok();
    assert_eq!(again.matches("unchanged").count(), 2, "{again}");
    cp.file("shop/a.yaml", &PERMISSION.replace("allow", "deny"));
    let changed = cp.run(&apply).await.ok();
    assert!(
        changed.contains("changed    global-1-3") && changed.contains("unchanged  global-1-1"),
        "{changed}"
    );
}

#[tokio::test]
async fn every_mistake_of_every_file_is_told_at_its_place_and_nothing_is_applied() {
    let cp = ControlPlane::start().await;
    let mesh = cp.file("1-mesh.yaml", MESH);
    let bad = cp.file(
        "2-bad.yaml",
        "# two documents\n\
         ---\n\
         type: MeshTrafficPermission\n\
         mesh: default\n\
         name: web\n\
         spec:\n\
         \x20 targetRef: {kind: Everything}\n\
         \x20 rules:\n\
         \x20 - default:\n\
         \x20    allow: [{spiffeID: {type: Almost, value: 'spiffe://a/b'}}]\n\
         \x20    permit: []\n\
         ---\n\
         type: Mesh\n\
         name: Shop\n",
    );
    let worse = cp.file("3-worse.yaml", "type: Mesh\nname: [x\n");
    let files = [mesh.to_str().unwrap(), bad.to_str().unwrap(), worse.to_str().unwrap()];
    let ran = cp.run(&["apply", "-f", files[0], files[1], "-f", files[2]]).await;
    assert_eq!(ran.out, "");
    let err = ran.failed(1);
    let folder = format!("{}/", cp.dir.path().display());
    let places: Vec<String> = err
        .lines()
        .map(|line| line.replace(&folder, "").splitn(3, ": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        places[..4],
        [
            "2-bad.yaml:7:21: spec.targetRef.kind",
            "2-bad.yaml:10:32: spec.rules[0].default.allow[0].spiffeID.type",
            "2-bad.yaml:11:6: spec.rules[0].default.permit",
            "2-bad.yaml:14:7: name",
        ],
        "{err}"
    );
    assert!(places[4].starts_with("3-worse.yaml:"), "{err}");
    assert!(err.ends_with("error: 5 mistakes, nothing was applied\n"), "{err}");
    assert_eq!(cp.run(&["get", "meshes"]).await.err, "there are no meshes\n");
}

#[tokio::test]
async fn what_stands_twice_or_says_not_what_it_is_is_a_mistake() {
    let cp = ControlPlane::start().await;
    let file = cp.file(
        "x.yaml",
        "type: Mesh\nname: a\n---\ntype: Mesh\nname: a\n---\ntype: Mash\nname: b\n---\nname: c\n",
    );
    let err = cp.run(&["apply", "-f", file.to_str().unwrap()]).await.failed(1);
    for (place, reason) in [
        ("4:1", "stands already at"),
        ("7:7", "type: 'Mash' is not a known kind"),
        ("10:1", "type: must be given"),
    ] {
        assert!(err.contains(&format!("x.yaml:{place}: ")) && err.contains(reason), "{err}");
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cp = ControlPlane::start().await;
    let file = cp.file("all.yaml", &format!("{MESH}---\n{PERMISSION}"));
    let ran = cp.run(&["apply", "--dry-run", "-f", file.to_str().unwrap()]).await;
    assert!(
        ran.err.contains("warning: MeshTrafficPermission web: the mesh 'default' does not exist"),
        "{}",
        ran.err
    );
    assert_eq!(ran.ok().matches("would create").count(), 2);
    assert_eq!(cp.run(&["get", "meshes"]).await.ok(), "");
}

#[tokio::test]
async fn what_get_shows_can_be_applied() {
    let cp = ControlPlane::start().await;
    let file = cp.file("all.yaml", &format!("{MESH}---\n{PERMISSION}"));
    cp.run(&["apply", "-f", file.to_str().unwrap()]).await.ok();
    let yaml = cp.run(&["get", "meshtrafficpermission", "web", "-o", "yaml"]).await.ok();
    assert!(yaml.starts_with("type: MeshTrafficPermission\nmesh: default\nname: web\nspec:\n"), "{yaml}");
    assert!(yaml.contains("status:\n"), "{yaml}");
    let again = cp.file("again.yaml", &yaml);
    let again = cp.run(&["apply", "-f", again.to_str().unwrap(), "-o", "json"]).await.ok();
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again[0]["result"], &again[0]["revision"]), (&"unchanged".into(), &"global-1-2".into()));

    let list = cp.run(&["get", "meshtrafficpermissions", "-o", "yaml"]).await.ok();
    let list = cp.file("list.yaml", &list);
    assert!(cp.run(&["apply", "-f", list.to_str().unwrap()]).await.ok().contains("unchanged"));
    assert_eq!(
        cp.run(&["get", "MeshTrafficPermissions"]).await.ok(),
        "MESH     NAME  OWNER   REVISION\ndefault  web   global  global-1-2\n"
    );
    assert_eq!(
        cp.run(&["get", "mtp", "-o", "wide"]).await.ok(),
        "MESH     NAME  OWNER   REVISION    NAMESPACE  TARGET  LABELS\n\
         default  web   global  global-1-2             Mesh\n"
    );
    assert_eq!(cp.run(&["get", "mtp", "-o", "name"]).await.ok(), "meshtrafficpermission/web\n");
}

#[tokio::test]
async fn a_document_is_described_with_its_owner_and_who_runs_it() {
    let cp = ControlPlane::start().await;
    let labelled = PERMISSION.replace("spec:", "labels: {team: shop, tier: front}\nspec:");
    let file = cp.file("all.yaml", &format!("{MESH}---\n{labelled}"));
    cp.run(&["apply", "-f", file.to_str().unwrap()]).await.ok();
    assert_eq!(
        cp.run(&["describe", "mtp", "web"]).await.ok(),
        "Kind       MeshTrafficPermission\n\
         Mesh       default\n\
         Name       web\n\
         Owner      global\n\
         Revision   global-1-2\n\
         Labels     team=shop\n           tier=front\n\
         Runs       2 current, 0 late, 0 unknown\n\
         Spec\n  rules:\n  - default:\n      allow:\n      - spiffeID:\n          type: Prefix\n          \
         value: spiffe://default.east.mesh.local/workload/web\n"
    );
    let json = cp.run(&["describe", "mtp", "web", "-o", "json"]).await.ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["document"]["name"], &json["revision"]["state"]), (&"web".into(), &"applied".into()));
    cp.run(&["describe", "mtp", "nobody"]).await.failed(1);
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_waited_for() {
    let cp = ControlPlane::start().await;
    let file = cp.file("all.yaml", &format!("{MESH}---\n{PERMISSION}"));
    let applied = cp.run(&["apply", "--wait", "-f", file.to_str().unwrap()]).await.ok();
    assert!(applied.contains("global-1-2 is applied: 2 proxies run it"), "{applied}");
    let deleted = cp.run(&["delete", "meshtrafficpermission", "web", "--wait=5s"]).await.ok();
    assert!(
        deleted.starts_with("deleted MeshTrafficPermission web (global-1-3)\nglobal-1-3 is applied"),
        "{deleted}"
    );
    let err = cp.run(&["delete", "meshtrafficpermission", "web"]).await.failed(1);
    assert!(err.starts_with("error: there is no MeshTrafficPermission 'web' of mesh 'default'\n  "), "{err}");
    cp.run(&["get", "meshtrafficpermission", "web"]).await.failed(1);
}

#[tokio::test]
async fn one_refused_document_does_not_keep_the_others_out() {
    let cp = ControlPlane::start().await;
    let file = cp.file(
        "all.yaml",
        &format!(
            "type: Dataplane\nmesh: default\nname: web-1\nnetworking: {{address: 10.0.0.1, \
             inbound: [{{port: 80}}]}}\n---\n{MESH}"
        ),
    );
    let ran = cp.run(&["apply", "-f", file.to_str().unwrap()]).await;
    assert!(ran.out.contains("Mesh  default  created"), "{}", ran.out);
    let err = ran.failed(1);
    assert!(err.contains("all.yaml:1:1: Dataplane default/web-1 was refused\nerror: "), "{err}");
    assert!(err.contains("written on the control plane of their zone"), "{err}");
}
