//! What the control planes of a real mesh count, read from their pages as a scraper reads them.

use std::net::SocketAddr;
use std::time::Duration;

use demo::Mesh;
use demo::mesh::LIMIT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_control_planes_say_how_long_a_policy_takes_to_the_last_proxy() {
    let mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let (global, east) = (mesh.global_addresses().health, mesh.zone_addresses("east").health);

    let before = page(global).await;
    let [count, sum] = ["count", "sum"].map(|of| format!("tombolo_propagation_seconds_{of}"));
    let told = time::timeout(LIMIT, async {
        // One revision at a time is followed, so one that is written while another travels is not timed.
        for n in 0.. {
            write(&mesh, n).await;
            let text = page(global).await;
            if number(&text, &count) > number(&before, &count) {
                return text;
            }
            time::sleep(Duration::from_millis(200)).await;
        }
        unreachable!("there are always more")
    });
    let told = told.await.expect("no revision is ever said to have arrived");
    let took = number(&told, &sum) - number(&before, &sum);
    assert!(took > 0.0 && took < LIMIT.as_secs_f64(), "{told}");
    assert_eq!(number(&told, "tombolo_propagations_overdue_total"), 0.0);

    assert_eq!(number(&told, "tombolo_sync_sessions{peers=\"zones\"}"), 2.0, "{told}");
    let sent = "tombolo_sync_batches_total{peers=\"zones\",direction=\"sent\"}";
    assert!(number(&told, sent) > number(&before, sent), "a policy is a batch for each zone");
    let writes = "tombolo_store_operation_seconds_count{operation=\"write\"}";
    assert!(number(&told, writes) > number(&before, writes));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(number(&told, "tombolo_certificate_end_timestamp_seconds{of=\"server\"}") > now, "{told}");

    let told = page(east).await;
    assert!(number(&told, "tombolo_sync_sessions{peers=\"proxies\"}") > 1.0, "{told}");
    assert_eq!(number(&told, "tombolo_sync_sessions{peers=\"global\"}"), 1.0);
    assert!(number(&told, "tombolo_sync_batches_total{peers=\"global\",direction=\"received\"}") > 0.0);
    let authority = "authority of default.east.mesh.local in mesh default";
    let authority = format!("tombolo_certificate_end_timestamp_seconds{{of=\"{authority}\"}}");
    assert!(number(&told, &authority) > now, "{told}");
    assert!(number(&told, "tombolo_certificate_end_timestamp_seconds{of=\"membership\"}") > now, "{told}");
    mesh.shutdown().await.unwrap();
}

/// A permission that concerns nobody, which is another one each time.
async fn write(mesh: &Mesh, n: u32) {
    let text = format!(
        "type: MeshTrafficPermission\nmesh: default\nname: counted\nspec:\n  rules:\n  - default:\n      allow:\n      - source: {{workload: nobody-{n}}}\n"
    );
    mesh.api().unwrap().put("/meshes/default/meshtrafficpermissions/counted", &text).await.unwrap();
}

async fn page(health: SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The value of a series; 0 of one that is not there yet.
fn number(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
