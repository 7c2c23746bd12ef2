//! `tombolo context`, and what a command does with the one in use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cli::Environment;

use crate::support::{ControlPlane, run_in};

fn at_home(home: &Path) -> Environment {
    let mut environment = Environment::default();
    environment.variables.insert("XDG_CONFIG_HOME".into(), home.to_str().unwrap().into());
    environment
}

#[tokio::test]
async fn a_context_stands_for_the_three_flags() {
    let cp = ControlPlane::start().await;
    let home = tempfile::tempdir().unwrap();
    let environment = at_home(home.path());
    let (token, ca) = (cp.dir.path().join("admin.token"), cp.dir.path().join("ca.crt"));
    let (address, token, ca) =
        (format!("https://{}", cp.address), token.to_str().unwrap(), ca.to_str().unwrap());
    let tombolo = async |line: &str| {
        let words: Vec<&str> = std::iter::once("tombolo").chain(line.split_whitespace()).collect();
        run_in(&environment, &words).await
    };

    let err = tombolo("context use shop").await.failed(2);
    assert!(err.contains("there is no context 'shop'\n  make it: tombolo context set shop"), "{err}");
    tombolo("context show").await.failed(2);
    tombolo(&format!("context set shop --address {address} --ca {ca}")).await.failed(2);
    let set = format!("context set shop --address {address} --token-file {token} --ca {ca}");
    let ran = tombolo(&set).await;
    assert_eq!(ran.err, "'shop' is set; to use it: tombolo context use shop\n");
    tombolo("get meshes").await.failed(2);
    tombolo("get meshes --context shop").await.ok();
    tombolo("context use shop").await.ok();
    tombolo("get meshes").await.ok();

    let file = home.path().join("tombolo/contexts.yaml");
    for (path, mode) in [(file.as_path(), 0o600), (file.parent().unwrap(), 0o700)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    assert!(!fs::read_to_string(&file).unwrap().contains("an-administrator"), "paths, never tokens");

    tombolo("context set away --address 127.0.0.1:1 --token-file t --ca c").await.ok();
    let here = std::env::current_dir().unwrap();
    let shown = tombolo("context show away -o json").await.ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["tokenFile"], here.join("t").to_str().unwrap(), "files are found from everywhere");
    assert_eq!((&shown["address"], &shown["current"]), (&"https://127.0.0.1:1".into(), &false.into()));
    tombolo("get meshes --context away").await.failed(1);

    // Only what is said changes.
    tombolo(&format!("context set away --address {address}")).await.ok();
    let listed = tombolo("context list").await.ok();
    assert_eq!(
        listed
            .lines()
            .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>(),
        [
            "NAME ADDRESS TOKEN".to_owned(),
            format!("away {address} {}", here.join("t").display()),
            format!("* shop {address}")
        ]
    );
    assert_eq!(tombolo("context list -o name").await.ok(), "away\nshop\n");

    tombolo("context delete shop").await.ok();
    tombolo("context delete shop").await.failed(2);
    tombolo("get meshes").await.failed(2);
    assert!(Path::new(token).exists());
}

#[tokio::test]
async fn a_damaged_file_is_told_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tombolo");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("contexts.yaml"),
        "current: a\ncontexts:\n  a: {address: x, tokenfile: y, ca: z}\n",
    )
    .unwrap();
    let err = run_in(&at_home(home.path()), &["tombolo", "get", "meshes"]).await.failed(2);
    assert!(err.contains("contexts.yaml:3:19: ") && err.contains("tokenfile"), "{err}");
}

#[tokio::test]
async fn colours_are_for_terminals() {
    let cp = ControlPlane::start().await;
    let (token, ca) = (cp.dir.path().join("admin.token"), cp.dir.path().join("ca.crt"));
    let address = format!("https://{}", cp.address);
    let words =
        ["tombolo", "zone", "list", "--address", &address, "--token-file", token.to_str().unwrap(), "--ca"];
    let words = [&words[..], &[ca.to_str().unwrap()]].concat();
    let mut terminal = Environment { out_is_terminal: true, err_is_terminal: true, ..Environment::default() };
    assert!(run_in(&terminal, &words).await.ok().contains("\u{1b}[32mconnected"));
    assert!(run_in(&terminal, &["tombolo", "get", "meshes"]).await.failed(2).starts_with("\u{1b}[31merror:"));
    terminal.variables.insert("NO_COLOR".into(), "1".into());
    for environment in [terminal, Environment::default()] {
        assert!(!run_in(&environment, &words).await.ok().contains('\u{1b}'));
        assert!(!run_in(&environment, &["tombolo", "aply"]).await.failed(2).contains('\u{1b}'));
    }
}
