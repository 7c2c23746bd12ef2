//! The program as it is started by people: its words, its ready line, and what its flows cost.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use identity::sni;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinSet;
use tokio::time;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tombolo-zone-ingress");
const NAME: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbb.tombolo.internal";
const PATIENCE: Duration = Duration::from_secs(60);
/// What the promise is about.
const FLOWS: usize = 2000;

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn it_says_what_can_be_set_and_what_is_missing_or_too_much() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--zone-cp",
        "--token-file",
        "--name",
        "--listen",
        "--advertise",
        "--state-dir",
        "--ready-address",
        "--metrics-address",
        "--static",
        "--drain-time",
    ] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
    let cases: [(&[&str], &[&str]); 7] = [
        (&[], &["--zone-cp", "--static"]),
        (&["--zone-cp", "localhost:5678"], &["--name", "--token-file", "--state-dir"]),
        (
            &["--zone-cp", "localhost:5678", "--static", "f"],
            &["--zone-cp", "--static", "cannot be used with"],
        ),
        (
            &["--static", "f", "--advertise", "192.0.2.1:1"],
            &["--static", "--advertise", "cannot be used with"],
        ),
        (&["--static", "f", "--listen", "10001"], &["--listen", "10001"]),
        (
            &["--zone-cp", "z", "--name", "East_1", "--token-file", "t", "--state-dir", "s"],
            &["--name", "East_1"],
        ),
        (&["--static", "/nowhere"], &["/nowhere"]),
    ];
    for (args, wants) in cases {
        let output = run(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}: it is not ready");
        for want in wants {
            assert!(error.contains(want), "{args:?}: {want} is not in: {error}");
        }
    }
}

/// The program, relaying by a file; killed when dropped.
struct Running {
    child: Child,
    ready: Value,
    _out: BufReader<ChildStdout>,
    _folder: TempDir,
}

impl Running {
    async fn start(endpoint: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("handles.yaml");
        std::fs::write(&file, format!("handles:\n  {NAME}: {endpoint}\n")).unwrap();
        let any = "127.0.0.1:0";
        let mut child = tokio::process::Command::new(PROGRAM)
            .args(["--listen", any, "--ready-address", any, "--metrics-address", any, "--static"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        time::timeout(PATIENCE, out.read_line(&mut line)).await.expect("ready in time").unwrap();
        let ready = serde_json::from_str(&line).unwrap();
        Self { child, ready, _out: out, _folder: folder }
    }

    fn address(&self, what: &str) -> SocketAddr {
        self.ready[what].as_str().expect(what).parse().unwrap()
    }

    /// Its resident memory in bytes.
    fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    }
}

fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut bytes = Vec::new();
    let mut client = ClientConnection::new(Arc::new(config), sni(NAME).unwrap()).unwrap();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn the_ready_line_says_what_was_bound_and_a_signal_ends_it() {
    let mut running = Running::start("127.0.0.1:1".parse().unwrap()).await;
    assert_eq!(running.ready["ready"], "tombolo-zone-ingress");
    let mut stream = TcpStream::connect(running.address("health")).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for what in ["metrics", "listen"] {
        TcpStream::connect(running.address(what)).await.unwrap();
    }

    let id = running.child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let ended = time::timeout(PATIENCE, running.child.wait()).await.expect("it ends in time").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn two_thousand_idle_flows_cost_less_than_10_mb() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(listener.local_addr().unwrap()).await;
    let (address, hello) = (running.address("listen"), hello());
    let open = |stream: TcpStream, mut server: TcpStream| {
        let size = hello.len();
        async move {
            server.read_exact(&mut vec![0; size]).await.unwrap();
            (stream, server)
        }
    };
    let before = running.memory();
    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        let opening = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&hello).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            open(client, server).await
        };
        flows.push(time::timeout(PATIENCE, opening).await.expect("it arrives"));
    }
    let cost = running.memory() - before;
    assert!(cost < 10_000_000, "{cost} bytes");

    // What once was busy costs no more when it rests: its buffers and pipes are those of all.
    let mut busy = JoinSet::new();
    for (mut client, mut server) in flows.drain(..200) {
        busy.spawn(async move {
            let (block, mut seen) = (vec![7; 1 << 20], vec![0; 1 << 20]);
            let (sent, received) = tokio::join!(client.write_all(&block), server.read_exact(&mut seen));
            sent.unwrap();
            received.unwrap();
            (client, server)
        });
    }
    while let Some(flow) = time::timeout(PATIENCE, busy.join_next()).await.expect("it flows") {
        flows.push(flow.unwrap());
    }
    let cost = running.memory() - before;
    assert!(cost < 10_000_000, "{cost} bytes after 200 MB");
}
