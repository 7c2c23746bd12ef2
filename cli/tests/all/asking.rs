//! `wait`, `zone`, `inspect`, `token`, and command lines that are wrong.

use crate::support::{ControlPlane, run};

#[tokio::test]
async fn waiting_ends_when_it_is_applied_or_says_who_is_late() {
    let cp = ControlPlane::start().await;
    let applied = cp.run(&["wait", "global-1-7"]).await.ok();
    assert!(applied.starts_with("global-1-7 is applied: 2 proxies run it"), "{applied}");

    let late = cp.run(&["wait", "global-1-1001", "--timeout", "50ms"]).await;
    assert_eq!(late.code, 1);
    assert!(late.out.starts_with("global-1-1001 is not applied everywhere after "), "{}", late.out);
    assert!(late.out.contains("default/web-2  east  late   slow  sent 2 s ago\n"), "{}", late.out);
    assert_eq!(cp.run(&["wait", "global-1-1001", "--timeout=50ms", "--allow-unknown"]).await.code, 1);

    let json = cp.run(&["wait", "global-1-7", "-o", "json"]).await.ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["state"], "applied");
    let err = cp.run(&["wait", "global-1-3000"]).await.failed(1);
    assert!(err.contains("no write had the revision global-1-3000"), "{err}");
    cp.run(&["wait", "3000"]).await.failed(2);
}

#[tokio::test]
async fn zones_are_listed_with_their_age() {
    let cp = ControlPlane::start().await;
    assert_eq!(
        cp.run(&["zone", "list"]).await.ok(),
        "NAME      STATE      LAST HEARD  CURRENT  LATE  UNKNOWN\n\
         east      connected  just now    2        0     0\n\
         far-west  offline    3m ago      0        0     0\n\
         north     offline    never       0        0     0\n"
    );
    assert!(cp.run(&["zone", "list", "-o", "yaml"]).await.ok().contains("state: connected"));
}

#[tokio::test]
async fn a_history_is_accepted_by_who_saw_what_would_be_lost() {
    let cp = ControlPlane::start().await;
    let shown = cp.run(&["zone", "accept", "global"]).await.ok();
    assert!(
        shown.starts_with(
            "global is held at global-1-77, since it tells another history up to revision 77 of epoch 1\n\
             known is global-2-77: 3 documents would come, 0 change, 101 go\n"
        ),
        "{shown}"
    );
    let end =
        "  Mesh//global//099\n  and 1 more\n\nto let that happen: tombolo zone accept global --epoch 2\n";
    assert!(shown.ends_with(end), "{shown}");
    let accepted = cp.run(&["zone", "accept", "global", "--epoch", "2"]).await.ok();
    assert_eq!(accepted, "epoch 2 of global counts from now on\n");
    let err = cp.run(&["zone", "accept", "global", "--epoch", "3"]).await.failed(1);
    assert!(err.contains("look again"), "{err}");
    let err = cp.run(&["zone", "accept", "east"]).await.failed(2);
    assert!(err.contains("nothing of east is held back here"), "{err}");
}

#[tokio::test]
async fn a_proxy_is_inspected() {
    let cp = ControlPlane::start().await;
    let text = cp.run(&["inspect", "dataplane", "web-1", "--zone", "east"]).await.ok();
    assert!(
        text.starts_with(
            "default/web-1 in zone east: does not yet run what it was told\ncompiled from global-1-9\n\n\
             PART        RUNS  REFUSED BECAUSE\n\
             inbound/80  yes\n\
             listeners   no    port 80 is in use\n"
        ),
        "{text}"
    );
    let err = cp.run(&["inspect", "dataplane", "web-1"]).await.failed(1);
    assert!(err.contains("?zone: must be given"), "{err}");
}

#[tokio::test]
async fn words_are_completed_by_what_the_control_plane_has() {
    let cp = ControlPlane::start().await;
    let file = cp.file(
        "mesh.yaml",
        "type: Mesh\nname: shop\n---\ntype: Mesh\nname: pay\n---\ntype: Mesh\nname: play\n",
    );
    cp.run(&["apply", "-f", file.to_str().unwrap()]).await.ok();
    let address = format!("https://{}", cp.address);
    let (token, ca) = (cp.dir.path().join("admin.token"), cp.dir.path().join("ca.crt"));
    let connection =
        ["--address", &address, "--token-file", token.to_str().unwrap(), "--ca", ca.to_str().unwrap()];
    let complete = async |words: &[&str]| {
        let words = [&["tombolo", "__complete", "--"], &connection[..], words].concat();
        run(&words).await.ok()
    };
    assert_eq!(complete(&["get", "meshes", "p"]).await, "pay\nplay\n");
    assert_eq!(complete(&["delete", "m", ""]).await, "pay\nplay\nshop\n");
    assert_eq!(complete(&["get", "-m", "sh"]).await, "shop\n");
    assert_eq!(complete(&["get", "meshtr"]).await, "meshtrusts\nmeshtrafficpermissions\n");
    // Nobody there adds nothing, and is no error in the middle of a line.
    assert_eq!(run(&["tombolo", "__complete", "--", "get", "meshes", ""]).await.ok(), "");
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["tombolo", "completion", shell]).await.ok().contains("__complete"), "{shell}");
    }
}

/// A folder with a `tombolo` that knows contexts without a control plane, and the script for a shell.
async fn shell_with_contexts(shell: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let tombolo = dir.path().join("tombolo");
    // As the command answers, asked for the last word alone.
    let script = "#!/bin/sh\n[ \"$1\" = __complete ] && shift 2\nfor last; do :; done\ncase $last in\n\
                  --output=*) echo --output=json ;;\n--context=*) echo --context=a:b ;;\n\
                  *) for word; do echo \"<$word>\"; done ;;\nesac\n";
    std::fs::write(&tombolo, script).unwrap();
    std::fs::set_permissions(&tombolo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (dir, run(&["tombolo", "completion", shell]).await.ok())
}

/// What a shell says to a script.
fn shell(program: &str, flags: &[&str], script: &str, dir: &std::path::Path) -> String {
    let ran = std::process::Command::new(program)
        .args(flags)
        .arg(script)
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .env("HOME", dir)
        .output()
        .unwrap_or_else(|error| panic!("{program} is missing, see .ci/run: {error}"));
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.stderr.is_empty(), "{program}: {said}{}", String::from_utf8_lossy(&ran.stderr));
    said
}

#[tokio::test]
async fn bash_hands_the_words_over_and_takes_what_comes_behind_its_breaks() {
    let (dir, completion) = shell_with_contexts("bash").await;
    // What bash makes of a line, and what it is then to write over the last word.
    for (line, words, want) in [
        ("tombolo get -m ", "tombolo get -m ''", "<get>\n<-m>\n<>\n"),
        ("tombolo get --output=j", "tombolo get --output = j", "json\n"),
        ("tombolo get --output=", "tombolo get --output =", "json\n"),
        ("tombolo get --context=a:", "tombolo get --context = a :", "b\n"),
        ("tombolo --address h:1 get ", "tombolo --address h : 1 get ''", "<--address>\n<h:1>\n<get>\n<>\n"),
    ] {
        let typed = format!(
            "COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _tombolo; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let said = shell("bash", &["-c"], &format!("{completion}\n{typed}"), dir.path());
        assert_eq!(said, want, "{line}");
    }
}

#[tokio::test]
#[ignore = "needs zsh, which .ci/run installs"]
async fn zsh_completes_words_and_values() {
    let (dir, completion) = shell_with_contexts("zsh").await;
    for (words, want) in [
        ("tombolo get -m ''", "<get>\n<-m>\n<>\n"),
        ("tombolo get --output=j", "--output=json\n"),
        ("tombolo get --context=a:", "--context=a:b\n"),
    ] {
        // The functions of its completion stand for those that work at a terminal alone.
        let typed = format!("words=({words}); CURRENT=${{#words}}; _tombolo");
        let around = "compdef() {}; compadd() { shift; print -rl -- \"$@\" }; _files() { print files }";
        let said = shell("zsh", &["-fc"], &format!("{around}\n{completion}\n{typed}"), dir.path());
        assert_eq!(said, want, "{words}");
    }
}

#[tokio::test]
#[ignore = "needs fish, which .ci/run installs"]
async fn fish_completes_words_and_values() {
    let (dir, completion) = shell_with_contexts("fish").await;
    for (line, want) in [
        ("tombolo get -m ", "<-m>\n<>\n<get>\n"),
        ("tombolo get --output=j", "--output=json\n"),
        ("tombolo get --context=a:", "--context=a:b\n"),
    ] {
        let typed = format!("complete -C '{line}'");
        let said = shell("fish", &["--no-config", "-c"], &format!("{completion}\n{typed}"), dir.path());
        // It sorts as it likes.
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort();
        assert_eq!(lines, want.lines().collect::<Vec<_>>(), "{line}");
    }
}

#[tokio::test]
async fn the_mesh_is_told_on_one_page_and_in_the_exit_code() {
    let cp = ControlPlane::start().await;
    let ran = cp.run(&["status"]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        "control plane of global, version 1.2.3, up 90s\n\n\
         ZONE      STATE      HEARD     CURRENT  LATE  UNKNOWN  SERVICES  INGRESSES\n\
         east      connected  just now  2        0     0        2         0 of 0\n\
         far-west  offline    3m ago    0        0     0        ?         ?\n\
         north     offline    never     0        0     0        ?         ?\n\n\
         every proxy has an identity: all their traffic is mutually authenticated\n\n\
         5 things are not well:\n\n  \
         service default/cart of zone east has no ready endpoint\n    \
         tombolo describe meshservice cart --mesh default --zone east\n\n  \
         zone east has services and no ingress: other zones cannot reach them\n    \
         tombolo get meshzoneaddresses --zone east -o wide\n\n  \
         zone far-west is offline: heard 3m ago\n    tombolo zone list\n\n  \
         zone north is offline: heard never\n    tombolo zone list\n\n  \
         what global says is held back here: it tells another history up to revision 77 of epoch 1\n    \
         tombolo zone accept global\n"
    );
    let json = cp.run(&["status", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["well"], &json["zones"][0]["name"]), (&false.into(), &"east".into()));
    assert_eq!(json["findings"][0]["look"], "tombolo describe meshservice cart --mesh default --zone east");
}

#[tokio::test]
async fn a_token_is_revoked_by_its_name_or_by_its_file() {
    let cp = ControlPlane::start().await;
    let file = cp.file("east.token", "a.b.c\n");
    let told = |jti: &str| {
        format!(
            "token {jti} is revoked; turned away: zone/east\njoined by it, and turned away when they come: zone/west\n"
        )
    };
    assert_eq!(cp.run(&["token", "revoke", file.to_str().unwrap()]).await.ok(), told("a.b.c"));
    assert_eq!(cp.run(&["token", "revoke", "0a1b"]).await.ok(), told("0a1b"));
}

#[tokio::test]
async fn a_token_is_printed_and_nothing_else() {
    let cp = ControlPlane::start().await;
    let token = cp.run(&["token", "zone", "--zone", "east", "--uses", "1", "--valid-for", "1h"]).await.ok();
    assert_eq!(token, "{\"zone\":\"east\",\"uses\":1,\"valid_for\":\"1h\"}\n");
    let err = cp.run(&["token", "dataplane", "--workload", "web"]).await.failed(1);
    assert!(err.contains("dataplane tokens are issued by the zone's control plane"), "{err}");
    let err = cp.run(&["token", "zone", "--zone", "global"]).await.failed(2);
    assert!(err.contains("no zone can be called 'global'"), "{err}");
}

#[tokio::test]
async fn a_wrong_command_line_has_its_own_exit_code() {
    for words in
        [&["tombolo"][..], &["tombolo", "aply"], &["tombolo", "apply"], &["tombolo", "get", "x", "-o", "xml"]]
    {
        run(words).await.failed(2);
    }
    let cp = ControlPlane::start().await;
    let err = cp.run(&["get", "meshservises"]).await.failed(2);
    assert!(err.starts_with("error: 'meshservises' is no kind of document\n  use one of meshes, "), "{err}");
    assert!(err.contains("'tombolo kinds'"), "{err}");
    let kinds = run(&["tombolo", "kinds"]).await.ok();
    assert!(
        kinds.starts_with("KIND                   PLURAL                  SHORT   IN A MESH  WRITTEN ON\n"),
        "{kinds}"
    );
    cp.run(&["get", "mesh", "No_Name"]).await.failed(2);
    assert!(run(&["tombolo", "--help"]).await.ok().contains("apply"));
    assert!(run(&["tombolo", "--version"]).await.ok().starts_with("tombolo "));
}
