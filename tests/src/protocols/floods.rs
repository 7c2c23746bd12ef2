//! Peers of the mesh that know HTTP/2 well and mean ill: what one connection may cost, through the whole inbound,
//! while others go on being answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use identity::Alpn;
use model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{self, Instant};

use super::apps::{App, Client, Speaks, full};
use super::frames::*;
use super::mesh::Mesh;

/// What must come of an attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    /// The connection ends, and long before all was taken.
    SentAway,
    /// It costs little, and is let be.
    LetBe,
}

/// Says the same again and again, with a new stream each time where that is asked for.
struct Attack {
    first: Vec<u8>,
    again: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    times: u32,
    listens: bool,
    want: Want,
}

impl Attack {
    fn new(first: Vec<u8>, times: u32, again: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Self {
        Self { first, again: Box::new(again), times, listens: true, want: Want::SentAway }
    }
}

/// How a peer fared.
#[derive(Debug)]
struct Fared {
    /// So many times it said its word.
    said: u32,
    ended: bool,
}

async fn attack(mesh: &Mesh, attack: &Attack) -> Fared {
    let (mut read, mut write) = tokio::io::split(mesh.peer(Alpn::H2).await);
    let mut said = 0;
    let ended = AtomicBool::new(false);
    let writing = async {
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, ""), &attack.first].concat()).await?;
        while said < attack.times && !ended.load(Ordering::Relaxed) {
            let upto = (said + 200).min(attack.times);
            let words: Vec<u8> = (said..upto).flat_map(|number| (attack.again)(2 * number + 3)).collect();
            let taken = time::timeout(Duration::from_secs(2), write.write_all(&words)).await;
            match taken {
                Ok(done) => done?,
                Err(_) => break,
            }
            said = upto;
        }
        write.flush().await
    };
    let reading = async {
        if attack.listens {
            let mut buffer = vec![0; 16 * 1024];
            while !matches!(read.read(&mut buffer).await, Ok(0) | Err(_)) {}
            ended.store(true, Ordering::Relaxed);
        } else {
            std::future::pending::<()>().await;
        }
    };
    // Who was sent away while it spoke hears so at once; others are listened to for a moment more.
    let both = async {
        tokio::pin!(reading);
        let broke = tokio::select! {
            () = &mut reading => true,
            written = writing => written.is_err(),
        };
        if broke {
            ended.store(true, Ordering::Relaxed);
        } else {
            let _ = time::timeout(Duration::from_secs(1), reading).await;
        }
    };
    time::timeout(Duration::from_secs(60), both).await.expect("it goes on for ever");
    Fared { said, ended: ended.load(Ordering::Relaxed) }
}

/// Answers GET, and holds everything else without reading it.
async fn application() -> (App, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    let app = App::start(Speaks::Http1, move |request: Request<Incoming>| {
        if request.uri().path() == "/" {
            count.fetch_add(1, Ordering::Relaxed);
        }
        async move {
            if request.method() != Method::GET {
                std::future::pending::<()>().await;
                drop(request);
            }
            Response::new(full("ok"))
        }
    });
    (app.await, asked)
}

/// The slowest but one in a hundred, while this goes on.
async fn p99_during<T>(client: &mut Client, work: impl Future<Output = T>) -> (Duration, T) {
    let mut took = Vec::new();
    let mut work = std::pin::pin!(work);
    let mut done = None;
    while done.is_none() || took.len() < 100 {
        let start = Instant::now();
        let request = Request::get("/other").body(full("")).unwrap();
        let answered = async { client.send(request).await.unwrap().status() };
        let status = match done {
            Some(_) => answered.await,
            None => {
                let mut answered = std::pin::pin!(answered);
                tokio::select! {
                    status = &mut answered => status,
                    outcome = &mut work => {
                        done = Some(outcome);
                        answered.await
                    }
                }
            }
        };
        assert_eq!(status, 200, "another connection suffers");
        took.push(start.elapsed());
    }
    took.sort_unstable();
    (took[took.len() * 99 / 100], done.unwrap())
}

/// Of another connection's requests: so many times as slow as in peace, beside what a busy machine adds.
const SLOWER: u32 = 50;
const BUSY: Duration = Duration::from_secs(1);

async fn withstand(attacks: Vec<(&str, Attack)>) {
    let (app, asked) = application().await;
    let mesh = Mesh::start(Protocol::Http, &[("west", app.address)]).await;
    let mut other = Client::connect(Speaks::Http1, mesh.outbound).await;
    let (before, ()) = p99_during(&mut other, async {}).await;
    for (why, what) in attacks {
        let (during, fared) = p99_during(&mut other, attack(&mesh, &what)).await;
        match what.want {
            Want::SentAway => {
                assert!(fared.ended, "{why}: {fared:?}");
                assert!(fared.said < what.times / 2, "{why}: {fared:?}");
            }
            Want::LetBe => assert!(!fared.ended, "{why}: {fared:?}"),
        }
        let reached = asked.swap(0, Ordering::Relaxed);
        assert!(reached < 5_000, "{why}: {reached} requests reached the application");
        assert!(during < before * SLOWER + BUSY, "{why}: others took {during:?} instead of {before:?}");
    }
    mesh.stop().await;
}

fn get(stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, [GET, &block(headers)].concat())
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

const MANY: u32 = 200_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s01_who_opens_streams_only_to_reset_them_is_sent_away_and_others_are_answered() {
    let rapid = |stream| [get(stream, &[]), frame(RST_STREAM, 0, stream, 8_u32.to_be_bytes())].concat();
    withstand(vec![("rapid resets", Attack::new(Vec::new(), MANY, rapid))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s02_who_makes_us_reset_streams_is_sent_away_and_others_are_answered() {
    let window = |stream| frame(WINDOW_UPDATE, 0, stream, 0x7fff_ffff_u32.to_be_bytes());
    let overflowing = move |stream| [post(stream), window(stream)].concat();
    let lying = |stream| get(stream, &[("content-length", "5")]);
    withstand(vec![
        ("windows beyond numbers", Attack::new(Vec::new(), MANY, overflowing)),
        ("lengths without a body", Attack::new(Vec::new(), MANY, lying)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s03_headers_without_an_end_are_cut_off_and_others_are_answered() {
    let begun = || frame(HEADERS, END_STREAM, 1, GET);
    let more = |_| frame(CONTINUATION, 0, 1, block(&[("x", &"v".repeat(100))]));
    let empty = |_| frame(CONTINUATION, 0, 1, "");
    withstand(vec![
        ("endless headers", Attack::new(begun(), MANY, more)),
        ("empty continuations", Attack::new(begun(), MANY, empty)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s04_empty_data_that_nobody_reads_is_cut_off_and_others_are_answered() {
    let empty = |_| frame(DATA, 0, 1, "");
    withstand(vec![("empty data", Attack::new(post(1), 5 * MANY, empty))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s05_headers_are_counted_as_they_are_decoded_cookies_included() {
    // One cookie of 4000 bytes that is indexed, and then said again with one byte each time.
    let mut headers = [GET, b"\x40\x06cookie\x7f\xa1\x1e"].concat();
    headers.extend([b'v'; 4000]);
    headers.extend([0xbe; 10_000]);
    let (app, asked) = application().await;
    let mesh = Mesh::start(Protocol::Http, &[("west", app.address)]).await;
    let mut peer = Framed::begin(mesh.peer(Alpn::H2).await).await;
    peer.say(frame(HEADERS, END_STREAM | END_HEADERS, 1, headers)).await;
    loop {
        match peer.hear().await {
            None => break,
            Some(heard) if heard.kind == GOAWAY || heard.stream == 1 => {
                assert_ne!((heard.kind, heard.status()), (HEADERS, 200));
                break;
            }
            Some(_) => {}
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "40 MB reached the application");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_who_asks_without_listening_takes_nothing_from_others() {
    // That it is held up is proved where the pipe between us is short (`traffic`, `http::limits`).
    let deaf = |again: fn(u32) -> Vec<u8>| {
        let attack = Attack::new(Vec::new(), MANY / 10, again);
        Attack { listens: false, want: Want::LetBe, ..attack }
    };
    let priority = |stream| frame(PRIORITY, 0, stream, [0, 0, 0, 0, 1]);
    // A window of nothing, and answers that wait for more.
    let tiny = frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0]);
    let waiting = |stream| get(stream, &[]);
    withstand(vec![
        ("pings", deaf(|_| frame(PING, 0, 0, [7; 8]))),
        ("settings", deaf(|_| frame(SETTINGS, 0, 0, ""))),
        ("priorities", Attack { want: Want::LetBe, ..Attack::new(Vec::new(), MANY / 10, priority) }),
        ("windows of nothing", Attack { want: Want::LetBe, ..Attack::new(tiny, 1000, waiting) }),
    ])
    .await;
}
