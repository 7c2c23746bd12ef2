//! A zone ingress as the outside sees it: who knows a handle reaches its endpoint, and everybody else learns
//! nothing.

mod hello;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use snapshot::parts::Handles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use traffic::Counters;
use traffic::relay::Limits;
use zone_ingress::{Ingress, ingress};

use self::hello::{Hello, records};

const KNOWN: &str = "mfxwk3dpnyqgc3tfo4qgq33xebsg6.aaaabbbb.tombolo.internal";
const GONE: &str = "orrxaidtn5wwk5dinfxgoidfnrzwk.aaaabbbb.tombolo.internal";
const UNKNOWN: &str = "orrxaidtn5wwk5dinfxgoidfnrzwl.aaaabbbb.tombolo.internal";

/// A busy machine gets this beyond what is promised.
const PATIENCE: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(20);

async fn start(limits: Limits, handles: &[(&str, SocketAddr)]) -> Ingress {
    let listen = "127.0.0.1:0".parse().unwrap();
    let ingress = Ingress::start(ingress::Options { listen, limits }).await.unwrap();
    ingress.handles(table(handles)).await.unwrap();
    ingress
}

fn table(handles: &[(&str, SocketAddr)]) -> Handles {
    Handles(handles.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect())
}

/// An endpoint, and what it takes.
async fn endpoint() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Nobody listens there.
async fn nowhere() -> SocketAddr {
    endpoint().await.1
}

/// A flow that is open to its endpoint, both ends.
async fn open(ingress: &Ingress, name: &str, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let hello = Hello::to(name).bytes();
    let mut client = TcpStream::connect(ingress.bound()).await.unwrap();
    client.write_all(&hello).await.unwrap();
    let (mut server, _) = time::timeout(PATIENCE, listener.accept()).await.expect("it arrives").unwrap();
    let mut seen = vec![0; hello.len()];
    time::timeout(PATIENCE, server.read_exact(&mut seen)).await.expect("it arrives whole").unwrap();
    assert_eq!(seen, hello);
    (client, server)
}

/// What a stranger sends, and how.
struct Opening {
    what: &'static str,
    pieces: Vec<Vec<u8>>,
    /// It ends its half when all is sent.
    ends: bool,
    /// It has to wait for the limit.
    slow: bool,
    counted: fn(&Counters) -> u64,
}

fn opening(what: &'static str, counted: fn(&Counters) -> u64, bytes: impl Into<Vec<u8>>) -> Opening {
    Opening { what, pieces: vec![bytes.into()], ends: false, slow: false, counted }
}

fn slowly(what: &'static str, pieces: Vec<Vec<u8>>) -> Opening {
    Opening { what, pieces, ends: false, slow: true, counted: |counters| counters.relay_slow_openings }
}

fn bad_openings() -> Vec<Opening> {
    let known = Hello::to(KNOWN).bytes();
    let unknown = |counters: &Counters| counters.relay_unknown_names;
    let not_tls = |counters: &Counters| counters.relay_not_tls;
    let ended = |counters: &Counters| counters.relay_ended_openings;
    let one_byte_each = known.iter().map(|byte| vec![*byte]).collect();
    let mut later_record = known.clone();
    later_record[0] = 23;
    // Says that it has 60,000 bytes.
    let endless = records(&[&[1, 0, 0xea, 0x60][..], &[0; 60_000]].concat(), 0x1000);
    vec![
        opening("an unknown name", unknown, Hello::to(UNKNOWN).bytes()),
        opening("the known name without its end", unknown, Hello::to(&KNOWN[..KNOWN.len() - 9]).bytes()),
        opening("a name below the known one", unknown, Hello::to(&format!("x.{KNOWN}")).bytes()),
        opening("another application's TLS", unknown, Hello::to("example.com").bytes()),
        opening("a name whose endpoint is gone", |c| c.relay_unreachable, Hello::to(GONE).bytes()),
        opening("no name", |c| c.relay_nameless, Hello::nameless().bytes()),
        opening(
            "an address as its name",
            |c| c.relay_nameless + c.relay_not_tls,
            Hello::to("127.0.0.1").bytes(),
        ),
        opening("two names", not_tls, Hello::to(KNOWN).and(KNOWN).bytes()),
        opening("HTTP", not_tls, format!("GET / HTTP/1.1\r\nhost: {KNOWN}\r\n\r\n")),
        opening("SSH", not_tls, "SSH-2.0-OpenSSH_9.2p1\r\n"),
        opening("the hello of SSL 2", not_tls, [&[0x80, 46, 1, 3, 1][..], &[0; 43]].concat()),
        opening("an alert", not_tls, [21, 3, 3, 0, 2, 1, 0]),
        opening("data before a handshake", not_tls, later_record),
        opening("noise", not_tls, [0xff; 500]),
        opening("an endless hello", |c| c.relay_large_openings + c.relay_not_tls, endless),
        Opening { ends: true, ..opening("nothing, and its end", ended, "") },
        Opening { ends: true, ..opening("half a hello, and its end", ended, &known[..known.len() / 2]) },
        slowly("nothing", Vec::new()),
        slowly("all of a hello but its last byte", vec![known[..known.len() - 1].to_vec()]),
        slowly("one byte at a time", one_byte_each),
    ]
}

/// What came back, how it ended, and when.
async fn seen(ingress: SocketAddr, opening: &Opening) -> (Vec<u8>, io::Result<()>, Duration) {
    let start = Instant::now();
    // The end may come before the connection is told to be there.
    let stream = match TcpStream::connect(ingress).await {
        Ok(stream) => stream,
        Err(error) => return (Vec::new(), Err(error), start.elapsed()),
    };
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        for piece in &opening.pieces {
            // It may have been ended meanwhile, and an error is told only once.
            write.write_all(piece).await?;
            if opening.pieces.len() > 1 {
                time::sleep(Duration::from_millis(20)).await;
            }
        }
        if opening.ends {
            write.shutdown().await?;
        }
        io::Result::Ok(())
    };
    let mut received = Vec::new();
    let receiving = async {
        loop {
            match read.read_buf(&mut received).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    };
    let watched = async {
        tokio::pin!(receiving);
        tokio::select! {
            ended = &mut receiving => return ended,
            sent = sending => sent?,
        }
        receiving.await
    };
    let ended =
        time::timeout(PATIENCE, watched).await.unwrap_or_else(|_| panic!("{}: it stays open", opening.what));
    (received, ended, start.elapsed())
}

#[tokio::test]
async fn s43_every_bad_opening_ends_alike_and_is_counted_by_its_cause() {
    const LIMIT: Duration = Duration::from_millis(1500);
    let (listener, known) = endpoint().await;
    let ingress = start(
        Limits { opening: LIMIT, connect: LIMIT, ..Limits::default() },
        &[(KNOWN, known), (GONE, nowhere().await)],
    )
    .await;
    let openings = bad_openings();
    let start = Instant::now();
    for opening in openings.iter().filter(|opening| !opening.slow) {
        let before = ingress.counters().await.unwrap();
        let (received, ended, took) = seen(ingress.bound(), opening).await;
        check(opening, &received, ended);
        assert!(took < LIMIT, "{}: {took:?}: the time tells it from others", opening.what);
        let after = ingress.counters().await.unwrap();
        let counted = [
            (opening.counted)(&after) - (opening.counted)(&before),
            after.relay_refusals - before.relay_refusals,
        ];
        assert_eq!(counted, [1, 1], "{}", opening.what);
    }
    let before = ingress.counters().await.unwrap();
    let slow: Vec<_> = openings.iter().filter(|opening| opening.slow).collect();
    for (opening, (received, ended, took)) in
        slow.iter().zip(join_all(slow.iter().map(|opening| seen(ingress.bound(), opening))).await)
    {
        check(opening, &received, ended);
        assert!(took >= LIMIT.mul_f64(0.9) && took < LIMIT * 6, "{}: {took:?}", opening.what);
    }
    let after = ingress.counters().await.unwrap();
    assert_eq!(after.relay_slow_openings - before.relay_slow_openings, slow.len() as u64);
    assert_eq!((after.relayed, after.relay_refusals), (0, openings.len() as u64));
    assert!(start.elapsed() < PATIENCE);

    // After all of that it does what it is there for.
    open(&ingress, KNOWN, &listener).await;
    ingress.shutdown(Duration::ZERO).await;
}

fn check(opening: &Opening, received: &[u8], ended: io::Result<()>) {
    assert!(received.is_empty(), "{}: {received:?}", opening.what);
    let kind = ended.expect_err(opening.what).kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset, "{}", opening.what);
}

#[tokio::test]
async fn whoever_has_too_many_connections_is_refused_like_a_stranger_until_one_ends() {
    let (listener, known) = endpoint().await;
    let ingress = start(Limits { connections_per_peer: 2, ..Limits::default() }, &[(KNOWN, known)]).await;
    let first = open(&ingress, KNOWN, &listener).await;
    let second = open(&ingress, KNOWN, &listener).await;
    let third = opening("one too many", |counters| counters.relay_over_limit, Hello::to(KNOWN).bytes());
    let (received, ended, _) = seen(ingress.bound(), &third).await;
    check(&third, &received, ended);
    assert_eq!(ingress.counters().await.unwrap().relay_over_limit, 1);

    drop(first);
    let again = async {
        loop {
            // The end of the first has to be noticed.
            let mut client = TcpStream::connect(ingress.bound()).await.unwrap();
            let _ = client.write_all(&Hello::to(KNOWN).bytes()).await;
            tokio::select! {
                accepted = listener.accept() => return accepted.unwrap(),
                _ = client.read_u8() => {}
            }
        }
    };
    time::timeout(PATIENCE, again).await.expect("there is a place again");
    drop(second);
    ingress.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_flow_in_the_middle_of_its_bulk_ends_with_its_handle() {
    let (listener, known) = endpoint().await;
    let elsewhere = nowhere().await;
    for (why, next) in [("gone", table(&[])), ("elsewhere", table(&[(KNOWN, elsewhere)]))] {
        let ingress = start(Limits::default(), &[(KNOWN, known)]).await;
        let (mut client, mut server) = open(&ingress, KNOWN, &listener).await;
        let (mut stuck, silent) = open(&ingress, KNOWN, &listener).await;
        let flowing = async {
            let sending = async {
                let block = vec![7; 256 * 1024];
                loop {
                    if let Err(error) = client.write_all(&block).await {
                        return error;
                    }
                }
            };
            let receiving = async {
                let mut buffer = vec![0; 256 * 1024];
                loop {
                    match server.read(&mut buffer).await {
                        Ok(0) => panic!("{why}: an orderly end"),
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                }
            };
            tokio::join!(sending, receiving)
        };
        // Its bytes lie in the ingress, which cannot pass them on.
        let full = async {
            let block = vec![7; 256 * 1024];
            while time::timeout(Duration::from_millis(100), stuck.write_all(&block)).await.is_ok() {}
        };
        let cutting = async {
            full.await;
            let start = Instant::now();
            ingress.handles(next).await.unwrap();
            start.elapsed()
        };
        let all = async { tokio::join!(flowing, cutting) };
        let (_, took) = time::timeout(GRACE, all).await.unwrap_or_else(|_| panic!("{why}: it goes on"));
        assert!(took < Duration::from_secs(1), "{why}: {took:?}");
        let error = stuck.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{why}");
        assert_eq!(ingress.counters().await.unwrap().revocations, 2, "{why}");
        drop(silent);
        ingress.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn an_ingress_that_stops_takes_nobody_new_and_lets_what_is_open_finish() {
    let (listener, known) = endpoint().await;
    let ingress = start(Limits::default(), &[(KNOWN, known)]).await;
    let (mut client, mut server) = open(&ingress, KNOWN, &listener).await;
    let address = ingress.bound();
    let stopping = tokio::spawn(ingress.shutdown(GRACE));
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, refused).await.expect("it stops listening");

    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "last words");
    drop(server);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "an orderly end");
    time::timeout(PATIENCE, stopping).await.expect("nothing is left to wait for").unwrap();
}
