//! What two readers could read in two ways is refused, at the edge to the own application as well as at the edge
//! to the mesh; what is tolerated is said anew, in one way only.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use identity::Alpn;
use model::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

use self::Want::{BrokenOff, Ended, Passes, Refused};
use super::apps::{App, Speaks, full};
use super::mesh::Mesh;
use super::raw::Raw;

/// What must become of the bytes.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// They are answered with 400 (or 501), and the connection ends; the application sees nothing.
    Refused,
    /// The connection ends without an answer; the application sees nothing.
    Ended,
    /// The head has passed when the body stops to make sense: the application never sees the end of it, and the
    /// connection ends.
    BrokenOff,
    /// The application sees these requests and no others: method, path, host and body.
    Passes(&'static [&'static str]),
}

const HEADS: &[(&str, &str, Want)] = &[
    ("a length, then a coding", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Refused),
    ("a coding, then a length", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Refused),
    ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n", Refused),
    ("a list of lengths", "Content-Length: 1, 2\r\n", Refused),
    ("a list of one length", "Content-Length: 2, 2\r\n", Refused),
    ("a signed length", "Content-Length: +2\r\n", Refused),
    ("a negative length", "Content-Length: -2\r\n", Refused),
    ("a length in hexadecimal", "Content-Length: 0x2\r\n", Refused),
    ("a length of two words", "Content-Length: 1 1\r\n", Refused),
    ("an empty length", "Content-Length:\r\n", Refused),
    ("a length beyond numbers", "Content-Length: 18446744073709551617\r\n", Refused),
    ("the same length twice", "Content-Length: 2\r\nContent-Length: 2\r\n", Passes(&["POST / a ab"])),
    ("another coding before", "Transfer-Encoding: gzip, chunked\r\n", Refused),
    ("another coding behind", "Transfer-Encoding: chunked, gzip\r\n", Refused),
    ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", Refused),
    ("codings in two lines", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Refused),
    ("the same coding in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refused),
    ("a coding taken back", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Refused),
    ("no coding", "Transfer-Encoding: identity\r\n", Refused),
    ("a coding that begins like chunked", "Transfer-Encoding: chunked;x=1\r\n", Refused),
    ("a coding that ends like chunked", "Transfer-Encoding: xchunked\r\n", Refused),
    ("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n", Refused),
    ("a list that begins with nothing", "Transfer-Encoding: ,chunked\r\n", Refused),
    ("an empty coding beside a length", "Transfer-Encoding:\r\nContent-Length: 2\r\n", Refused),
    ("a vertical tab before the coding", "Transfer-Encoding: \x0bchunked\r\n", Refused),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n", Refused),
    ("a space before the name", " Transfer-Encoding: chunked\r\n", Refused),
    ("a folded header", "X: 1\r\n\tTransfer-Encoding: chunked\r\n", Refused),
    ("a header without a colon", "Transfer-Encoding\r\n", Refused),
    ("a header without a name", ": chunked\r\n", Refused),
    ("a line that ends in LF alone", "X: 1\nTransfer-Encoding: chunked\r\n", Refused),
    ("a head that ends in LF alone", "X: 1\n\nGET /evil HTTP/1.1\r\nHost: a\r\n", Refused),
    ("a CR in a value", "X: 1\rTransfer-Encoding: chunked\r\n", Refused),
    ("two CRs before the LF", "X: 1\r\r\n", Refused),
    ("a NUL in a value", "X: 1\0\r\n", Refused),
    ("a control character in a value", "X: 1\x01\r\n", Refused),
    ("a DEL in a value", "X: 1\x7f\r\n", Refused),
    ("a NUL in a name", "X\0: 1\r\n", Refused),
    ("another host", "Host: b\r\n", Refused),
    ("the same host again", "Host: a\r\n", Refused),
    (
        "a length that ends at the hop",
        "Connection: Content-Length\r\nContent-Length: 2\r\n",
        Passes(&["POST / a ab"]),
    ),
];

const WHOLE: &[(&str, &str, Want)] = &[
    ("lines that end in LF alone", "GET / HTTP/1.1\nHost: a\n\n", Refused),
    ("an LF before the request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("an empty line before the request", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Passes(&["GET / a "])),
    ("a space before the request", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("a CR in the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", Refused),
    ("a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused),
    ("HTTP/0.9", "GET /\r\n\r\n", Refused),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Ended),
    ("no host", "GET / HTTP/1.1\r\n\r\n", Refused),
    ("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", Refused),
    ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", Refused),
    ("a list of hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused),
    ("a host with a name before it", "GET / HTTP/1.1\r\nHost: name@a\r\n\r\n", Refused),
    ("a target with a name before its host", "GET http://name@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("a target and two hosts", "GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused),
    // The target is what counts, and the only host that goes on (RFC 9112 section 3.2.2).
    ("a target and another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Passes(&["GET / b "])),
    ("a host where the path should be", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("a host and a port there", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("all of the server, but not its options", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    (
        "a tunnel, and what would go through it",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        Refused,
    ),
    (
        "chunks in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "two requests at once",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        Passes(&["GET /1 a ", "GET /2 a "]),
    ),
    (
        "a body that looks like a request",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET /\n\r\n\r\nxGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        Passes(&["POST / a GET /\n\r\n\r\nx", "GET /2 a "]),
    ),
    (
        "a GET with a body",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        Passes(&["GET / a ab"]),
    ),
    (
        "a GET with chunks",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        Passes(&["GET / a ab"]),
    ),
    (
        // Whoever does not wait for the answer is not understood after it.
        "an upgrade and what would follow it",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\nGET /evil HTTP/1.1\nHost: a\n\n",
        Passes(&["GET / a "]),
    ),
];

/// Behind a head that says chunked.
const CHUNKS: &[(&str, &str, Want)] = &[
    ("a size that ends in LF alone", "2\nab\r\n0\r\n\r\n", BrokenOff),
    ("a chunk that ends in LF alone", "2\r\nab\n0\r\n\r\n", BrokenOff),
    ("a last size that ends in LF alone", "2\r\nab\r\n0\n\r\n", BrokenOff),
    ("an end in LF alone", "2\r\nab\r\n0\r\n\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", BrokenOff),
    ("an extension that ends in LF alone", "2;x\nab\r\n0\r\n\r\n", BrokenOff),
    ("an extension with a CR", "2;x\ry\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("a size beyond numbers", "10000000000000002\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("a negative size", "-2\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("a size that begins with 0x", "0x2\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("a size behind a space", " 2\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("no size", "\r\nab\r\n0\r\n\r\n", BrokenOff),
    ("a longer chunk", "2\r\nabc\r\n0\r\n\r\n", BrokenOff),
    ("a trailer that ends in LF alone", "2\r\nab\r\n0\r\nX: 1\nY: 2\r\n\r\n", BrokenOff),
    ("trailers that end in LF alone", "0\r\nX: 1\n\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", BrokenOff),
    ("a folded trailer", "2\r\nab\r\n0\r\nX: 1\r\n Y: 2\r\n\r\n", BrokenOff),
    ("an extension", "2 ;x=\"y\"\r\nab\r\n0;z\r\n\r\n", Passes(&["POST / a ab"])),
    ("zeros before a size", "0000000000000000000002\r\nab\r\n0\r\n\r\n", Passes(&["POST / a ab"])),
];

/// What the application saw: of each request whether it was whole.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, bool)>>>);

async fn application() -> (App, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let app = App::start(Speaks::Http1, move |request: Request<Incoming>| {
        let log = log.clone();
        async move {
            let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap());
            let line = format!("{} {} {host}", request.method(), request.uri());
            let entry = match request.into_body().collect().await {
                Ok(body) => (format!("{line} {}", String::from_utf8_lossy(&body.to_bytes())), true),
                Err(_) => (line, false),
            };
            log.0.lock().unwrap().push(entry);
            Response::new(full(""))
        }
    });
    (app.await, seen)
}

/// Says this, and hears so many answers, or all until the end.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8], answers: usize) -> String {
    let mut heard = Vec::new();
    let talked = async {
        // What is refused may be so before all of it was taken.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        while answers == 0 || String::from_utf8_lossy(&heard).matches(" 200 OK\r\n").count() < answers {
            match stream.read_buf(&mut heard).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    let in_time = time::timeout(Duration::from_secs(10), talked).await.is_ok();
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(in_time, "{:?}: only {heard:?}, and no end", String::from_utf8_lossy(bytes));
    heard
}

#[tokio::test]
async fn s08_what_two_readers_could_read_in_two_ways_is_refused_at_both_edges() {
    let (app, seen) = application().await;
    let mesh = Mesh::start(Protocol::Http, &[("west", app.address)]).await;
    let head = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\nab");
    let chunked =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let heads = HEADS.iter().map(|(why, headers, want)| (why, head(headers), want));
    let whole = WHOLE.iter().map(|(why, bytes, want)| (why, (*bytes).to_owned(), want));
    let chunks = CHUNKS.iter().map(|(why, body, want)| (why, chunked(body), want));
    for (why, bytes, want) in heads.chain(whole).chain(chunks) {
        for edge in ["outbound", "inbound"] {
            let answers = if let Passes(requests) = want { requests.len() } else { 0 };
            let heard = match edge {
                "outbound" => {
                    talk(TcpStream::connect(mesh.outbound).await.unwrap(), bytes.as_bytes(), answers).await
                }
                _ => talk(mesh.peer(Alpn::Http1).await, bytes.as_bytes(), answers).await,
            };
            let (whole, parts): (Vec<_>, Vec<_>) =
                seen.0.lock().unwrap().drain(..).partition(|(_, whole)| *whole);
            let whole: Vec<&str> = whole.iter().map(|(request, _)| request.as_str()).collect();
            match want {
                Refused => {
                    let status = heard.split(' ').nth(1);
                    assert!(matches!(status, Some("400" | "501")), "{why}, {edge}: {heard:?}");
                    assert_eq!(
                        (whole.len(), parts.len()),
                        (0, 0),
                        "{why}, {edge}: it reached the application"
                    );
                }
                Ended => {
                    assert_eq!(heard, "", "{why}, {edge}");
                    assert_eq!(
                        (whole.len(), parts.len()),
                        (0, 0),
                        "{why}, {edge}: it reached the application"
                    );
                }
                BrokenOff => {
                    assert!(!heard.contains(" 200 OK"), "{why}, {edge}: {heard:?}");
                    assert_eq!(whole, [""; 0], "{why}, {edge}");
                }
                Passes(requests) => assert_eq!(whole, *requests, "{why}, {edge}: {heard:?}"),
            }
        }
    }
    mesh.stop().await;
}

#[tokio::test]
async fn s08_an_application_whose_answer_can_be_read_in_two_ways_is_not_passed_on() {
    let ok = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
    let cases = [
        ("two lengths", ok("Content-Length: 1\r\nContent-Length: 2\r\n") + "ab"),
        ("a signed length", ok("Content-Length: +1\r\n") + "a"),
        ("a length and a coding", ok("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("another coding before", ok("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"),
        ("another coding behind", ok("Transfer-Encoding: chunked, gzip\r\n") + "0\r\n\r\n"),
        (
            "codings in two lines",
            ok("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        ("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("no content, but a length", "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\na".into()),
        (
            "no content, but a coding",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("no HTTP", "HELLO\r\n\r\n".into()),
        ("a CR in a value", ok("X: a\rContent-Length: 1\r\n")),
        ("a NUL in a value", ok("X: a\0\r\nContent-Length: 0\r\n")),
        ("a space before the colon", ok("Content-Length : 0\r\n")),
        ("a folded header", ok("X: a\r\n b\r\nContent-Length: 0\r\n")),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
    for (why, bytes) in cases {
        let mut client = Raw::connect(mesh.outbound).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = Raw::accept(&listener).await;
        app.head().await;
        app.say(&bytes).await;
        let answer = client.head().await;
        assert!(answer.starts_with("http/1.1 502 "), "{why}: {answer}");
        // Nobody asks anything more on this connection.
        assert_eq!(app.rest().await, "", "{why}");
    }
    mesh.stop().await;
}

#[tokio::test]
async fn s08_what_an_application_says_behind_its_answer_answers_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
    let cases = [
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    for head in cases {
        let mut client = Raw::connect(mesh.outbound).await;
        client.say("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = Raw::accept(&listener).await;
        app.head().await;
        app.say(format!("{head}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")).await;
        client.head().await;
        // It is not used again.
        assert_eq!(app.rest().await, "", "{head}");
        client.say("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = Raw::accept(&listener).await;
        assert!(app.head().await.starts_with("get /second "), "{head}");
        app.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
        client.until("good").await;
    }
    mesh.stop().await;
}
