//! What a proxy is told changes all the time: no request fails by it, and what is open stays open, unless it may
//! not.

mod shop;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::access::{AccessRule, ClientMatch, Effect};
use snapshot::parts::{Millis, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::shop::{CATALOG, Ca, HTTP1, HTTP2, Known, NEXT, Shop, TCP};
use super::apps::{BoxError, Client, Speaks, channel, collect, full};
use super::mesh::{WEB, allow};

const PATIENCE: Duration = Duration::from_secs(10);
const CHANGES: usize = 200;
const PACE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_changes_ten_times_a_second_and_no_request_fails() {
    let mut shop = Shop::start().await;
    let stop = CancellationToken::new();
    let loads = [
        ("HTTP/1.1", requests(Speaks::Http1, shop.outbound(CATALOG, HTTP1), &stop)),
        ("HTTP/1.1", requests(Speaks::Http1, shop.outbound(CATALOG, HTTP1), &stop)),
        ("HTTP/2", requests(Speaks::Http2, shop.outbound(CATALOG, HTTP2), &stop)),
        ("HTTP/2", requests(Speaks::Http2, shop.outbound(CATALOG, HTTP2), &stop)),
        ("TCP", connections(shop.outbound(CATALOG, TCP), &stop)),
    ];

    let mut ticks = time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..CHANGES {
        ticks.tick().await;
        change(&mut shop, number).await;
    }
    stop.cancel();
    for (what, load) in loads {
        let Tally { done, failed } = load.await.unwrap();
        assert!(
            failed.is_empty(),
            "{what}: {} of {done} failed: {:?}",
            failed.len(),
            &failed[..failed.len().min(5)]
        );
        assert!(done > CHANGES, "{what}: only {done}");
    }
    for service in [CATALOG, NEXT] {
        assert!(shop.served(service) > CHANGES, "only {}", shop.served(service));
    }
    // One for each opaque connection, and those that came with new leaves and endpoints.
    let counters = shop.east.counters().await.unwrap();
    assert!(counters.connects > 2 * CHANGES as u64, "{counters:?}");
    assert_eq!(
        (counters.outbound_failures, counters.outbound_rejected, counters.connect_failures),
        (0, 0, 0)
    );
    shop.stop().await;
}

/// One of each: endpoints, routes, certificates and bundles, permissions and timeouts.
async fn change(shop: &mut Shop, number: usize) {
    let weight = 1 + (number % 5) as u32;
    let members: &[(usize, u32, bool)] = match number % 6 {
        0 => &[(0, weight, true), (1, 1, true)],
        1 => &[(1, 1, true)],
        2 => &[(0, 1, false), (1, 1, true)],
        3 => &[(0, weight, true)],
        4 => &[(1, 1, false), (0, 1, true)],
        _ => &[(1, weight, true), (0, weight, true)],
    };
    shop.place(CATALOG, members).await;
    shop.place(NEXT, &[(2, weight, true)]).await;

    // Long enough to never matter.
    let timeouts = Timeouts { request: Millis(60_000 + number as u64), ..Timeouts::default() };
    let routes = [
        "[]",
        r#"[{"matches": [{"path": {"prefix": "/items"}}], "backends": [{"destination": {next}}]}]"#,
        r#"[{"backends": [{"destination": {catalog}, "weight": 2}, {"destination": {next}}]}]"#,
        r#"[{"matches": [{"path": {"exact": "/items/1"}, "method": "POST"}], "backends": [{"destination": {next}}]},
            {"matches": [{"headers": {"x-load": "yes"}}], "backends": [{"destination": {catalog}}]}]"#,
    ];
    shop.route(routes[number % 4], timeouts).await;

    // A second anchor comes and goes; nobody is believed by it.
    let anchors = if number.is_multiple_of(2) { vec![Ca::First] } else { vec![Ca::First, Ca::Second] };
    let known = Known { issued_by: Ca::First, east: anchors.clone(), west: anchors };
    match number % 4 {
        3 => shop.certify_east(&known).await,
        sidecar => shop.certify_west(sidecar, &known).await,
    }

    let mut rules = allow(WEB).rules;
    let origin = rules[0].origin.clone();
    if number % 3 == 1 {
        rules[0].clients = ClientMatch::Below("spiffe://default.east.mesh.local".into());
    }
    let other =
        ClientMatch::Exactly(format!("spiffe://default.east.mesh.local/workload/x{number}").parse().unwrap());
    rules.push(AccessRule { effect: Effect::Deny, clients: other, origin });
    shop.permit(&rules, timeouts).await;
}

#[tokio::test]
async fn a_renewal_touches_nothing_that_is_open() {
    let mut shop = Shop::start().await;
    let mut flow = Flow::open(shop.outbound(CATALOG, TCP)).await;
    let mut stream = Stream::open(shop.outbound(CATALOG, HTTP2)).await;
    get(&shop, CATALOG, HTTP1).await;
    let connects = async |shop: &Shop| shop.east.counters().await.unwrap().connects;
    let before = connects(&shop).await;
    get(&shop, CATALOG, HTTP1).await;
    assert_eq!(connects(&shop).await, before, "an idle connection is used again");

    let both = vec![Ca::First, Ca::Second];
    let with_second = Known { issued_by: Ca::First, east: both.clone(), west: both };
    let by_second = Known { issued_by: Ca::Second, ..with_second.clone() };
    for (number, known) in [Known::default(), with_second, by_second].iter().enumerate() {
        shop.certify_west(0, known).await;
        shop.certify_east(known).await;
        flow.goes_on().await;
        stream.goes_on().await;
        get(&shop, CATALOG, HTTP1).await;
        get(&shop, CATALOG, HTTP1).await;
        assert_eq!(connects(&shop).await, before + 1 + number as u64, "one new connection, and that is kept");
    }
    // The new ones show the new leaves: they are all that is believed now.
    let only_second = Known { issued_by: Ca::Second, east: vec![Ca::Second], west: vec![Ca::Second] };
    shop.certify_west(0, &only_second).await;
    shop.certify_east(&only_second).await;
    get(&shop, CATALOG, HTTP1).await;
    flow.ends().await;
    stream.ends().await;
    shop.stop().await;
}

#[tokio::test]
async fn what_was_believed_by_an_anchor_that_goes_ends_and_nothing_else() {
    let mut shop = Shop::start().await;
    let both = vec![Ca::First, Ca::Second];
    let by = |issued_by| Known { issued_by, east: both.clone(), west: both.clone() };
    shop.certify_west(0, &by(Ca::First)).await;
    shop.certify_west(2, &by(Ca::Second)).await;
    shop.certify_east(&by(Ca::First)).await;

    // The one who called: what leads to the catalog was believed by the first.
    let to_catalog = Open::open(&shop, CATALOG).await;
    let mut to_next = Open::open(&shop, NEXT).await;
    shop.certify_east(&Known { west: vec![Ca::Second], ..by(Ca::First) }).await;
    to_catalog.ends().await;
    to_next.goes_on().await;
    shop.certify_east(&by(Ca::First)).await;

    // The one who is called: it was called by two leaves.
    let with_first = Open::open(&shop, CATALOG).await;
    shop.certify_east(&by(Ca::Second)).await;
    let mut with_second = Open::open(&shop, CATALOG).await;
    let revocations = shop.east.counters().await.unwrap().revocations;
    shop.certify_west(0, &Known { east: vec![Ca::Second], ..by(Ca::First) }).await;
    with_first.ends().await;
    with_second.goes_on().await;
    to_next.goes_on().await;
    assert_eq!(shop.east.counters().await.unwrap().revocations, revocations, "the east had no reason");
    shop.stop().await;
}

/// A connection and a stream to a service.
struct Open {
    flow: Flow,
    stream: Stream,
}

impl Open {
    async fn open(shop: &Shop, service: usize) -> Self {
        let flow = Flow::open(shop.outbound(service, TCP)).await;
        Self { flow, stream: Stream::open(shop.outbound(service, HTTP2)).await }
    }

    async fn goes_on(&mut self) {
        self.flow.goes_on().await;
        self.stream.goes_on().await;
    }

    async fn ends(self) {
        self.flow.ends().await;
        self.stream.ends().await;
    }
}

/// An opaque connection whose other end echoes.
struct Flow(TcpStream);

impl Flow {
    async fn open(to: SocketAddr) -> Self {
        let mut flow = Self(TcpStream::connect(to).await.unwrap());
        flow.goes_on().await;
        flow
    }

    async fn goes_on(&mut self) {
        let echoed = async {
            self.0.write_all(b"flow").await?;
            self.0.read_exact(&mut [0; 4]).await
        };
        time::timeout(PATIENCE, echoed).await.expect("it does not answer").expect("it ended");
    }

    async fn ends(mut self) {
        let read = time::timeout(PATIENCE, self.0.read(&mut [0])).await.expect("it goes on");
        assert!(read.is_err(), "a reset, and no orderly end: {read:?}");
    }
}

/// A request that is answered as it is sent.
struct Stream {
    _client: Client,
    sender: http_body_util::channel::Sender<Bytes, BoxError>,
    body: Incoming,
}

impl Stream {
    async fn open(to: SocketAddr) -> Self {
        let mut client = Client::connect(Speaks::Http2, to).await;
        let (sender, body) = channel();
        let response = client.send(Request::post("/stream").body(body).unwrap()).await.unwrap();
        let mut stream = Self { _client: client, sender, body: response.into_body() };
        stream.goes_on().await;
        stream
    }

    async fn goes_on(&mut self) {
        let echoed = async {
            self.sender.send_data(Bytes::from_static(b"stream")).await.unwrap();
            self.body.frame().await.expect("it goes on").expect("it is well")
        };
        let frame = time::timeout(PATIENCE, echoed).await.expect("it does not answer");
        assert_eq!(frame.into_data().unwrap(), "stream");
    }

    async fn ends(mut self) {
        let frame = time::timeout(PATIENCE, self.body.frame()).await.expect("it goes on");
        assert!(matches!(frame, Some(Err(_))), "no orderly end: {frame:?}");
    }
}

async fn get(shop: &Shop, service: usize, which: usize) {
    let mut client = Client::connect(Speaks::Http1, shop.outbound(service, which)).await;
    let response = client.send(Request::get("/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    collect(response.into_body()).await;
}

/// How a load went.
#[derive(Default)]
struct Tally {
    done: usize,
    failed: Vec<String>,
}

/// A hundred requests a second over one connection.
fn requests(speaks: Speaks, to: SocketAddr, stop: &CancellationToken) -> JoinHandle<Tally> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut client = Client::connect(speaks, to).await;
        let mut tally = Tally::default();
        let mut ticks = time::interval(Duration::from_millis(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            tally.done += 1;
            let sent = vec![tally.done as u8; tally.done % 3000];
            let request = Request::post(format!("/items/{}", tally.done % 3)).header("x-load", "yes");
            match client.send(request.body(full(sent.clone())).unwrap()).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let answer = body.collect().await.map(|body| body.to_bytes());
                    if head.status != StatusCode::OK || !answer.as_ref().is_ok_and(|answer| *answer == sent) {
                        tally.failed.push(format!("{} {answer:?}", head.status));
                    }
                }
                Err(error) => {
                    tally.failed.push(format!("{error:?}"));
                    client = Client::connect(speaks, to).await;
                }
            }
        }
        tally
    })
}

/// Fifty connections a second, each with one exchange.
fn connections(to: SocketAddr, stop: &CancellationToken) -> JoinHandle<Tally> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut tally = Tally::default();
        let mut ticks = time::interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            tally.done += 1;
            let exchanged = async {
                let mut stream = TcpStream::connect(to).await?;
                stream.write_all(b"exchange").await?;
                stream.shutdown().await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                std::io::Result::Ok(answer)
            };
            match time::timeout(PATIENCE, exchanged).await.expect("no answer") {
                Ok(answer) if answer == b"exchange" => {}
                other => tally.failed.push(format!("{other:?}")),
            }
        }
        tally
    })
}
