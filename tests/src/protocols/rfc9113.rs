//! RFC 9113, section by section: what a peer may get wrong, said in raw frames to the edge to the own application
//! and to the edge to the mesh, there before an application of either version.
//!
//! Where the h2 crate decides otherwise than the RFC would have it, the case says how, and why that will do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use identity::Alpn;
use model::Protocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use self::Want::{Answer, Ended, GoAway, Ignored, Reset};
use super::apps::{App, Speaks, full};
use super::frames::*;
use super::mesh::Mesh;

const NO_ERROR: u32 = 0;
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;

/// What must come of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    /// Nothing: the next request is answered.
    Ignored,
    /// An answer on stream 1 with this status, and the next request is answered.
    Answer(u16),
    /// This stream is reset with this code; where it is not the last of very many, the next request is answered.
    Reset(u32, u32),
    /// The connection ends with this code.
    GoAway(u32),
    /// The connection ends without a word.
    Ended,
}

struct Case {
    section: &'static str,
    why: &'static str,
    /// Behind the preface and SETTINGS, unless they are the matter.
    bytes: Vec<u8>,
    want: Want,
    /// What the RFC would have, where that is something else, and why this will do.
    instead_of: Option<&'static str>,
}

fn case(section: &'static str, why: &'static str, bytes: Vec<u8>, want: Want) -> Case {
    Case { section, why, bytes, want, instead_of: None }
}

impl Case {
    fn instead_of(self, rfc: &'static str) -> Self {
        Self { instead_of: Some(rfc), ..self }
    }
}

/// The code tells the peer's developer more; that the connection ends is the same.
const STREAM_CLOSED: &str = "STREAM_CLOSED: another code";
const COMPRESSION: &str = "COMPRESSION_ERROR: another code";
const FRAME_SIZE_ERROR: &str = "FRAME_SIZE_ERROR: another code";
/// Only a peer that is broken or hostile does this, and its other streams are no loss.
const STREAM_ERROR: &str = "an error of the stream: the whole connection ends";

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

/// A request whose body has not ended.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

fn data(flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, 1, text)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, 8_u32.to_be_bytes())
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn whole(block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

fn get_with(headers: &[(&str, &str)]) -> Vec<u8> {
    whole([GET, &block(headers)].concat())
}

fn post_with(headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, 1, [POST, &block(headers)].concat());
    [head, data(END_STREAM, body)].concat()
}

fn trailers(flags: u8, headers: &[(&str, &str)]) -> Vec<u8> {
    [post(1), data(0, "x"), frame(HEADERS, END_HEADERS | flags, 1, block(headers))].concat()
}

fn frames_and_errors() -> Vec<Case> {
    let preface = |then: Vec<u8>| [PREFACE.to_vec(), then].concat();
    let begun = || frame(HEADERS, END_STREAM, 1, GET);
    vec![
        case("3.4", "HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Ended),
        case("3.4", "another preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), Ended),
        case("3.4", "a request before SETTINGS", preface(get(1)), Answer(200))
            .instead_of("PROTOCOL_ERROR: without SETTINGS the defaults hold, and nobody is misled"),
        case("3.4", "a goodbye before SETTINGS", preface(frame(GOAWAY, 0, 0, [0; 8])), GoAway(NO_ERROR))
            .instead_of("PROTOCOL_ERROR: it ends all the same"),
        case(
            "4.1",
            "frames that nobody knows",
            [frame(22, 255, 0, "x"), frame(22, 0, 77, ""), get(1)].concat(),
            Answer(200),
        ),
        case(
            "4.1",
            "the reserved bit of a stream",
            frame(HEADERS, END_STREAM | END_HEADERS, 1 << 31 | 1, GET),
            Answer(200),
        ),
        case(
            "4.1",
            "flags that nobody knows",
            frame(HEADERS, 0xc2 | END_STREAM | END_HEADERS, 1, GET),
            Answer(200),
        ),
        case(
            "4.2",
            "DATA beyond the size",
            [post(1), frame(DATA, 0, 1, [0; 16385])].concat(),
            GoAway(FRAME_SIZE),
        ),
        case("4.2", "HEADERS beyond the size", whole([0; 16385]), GoAway(FRAME_SIZE)),
        case("4.2", "an unknown frame beyond the size", frame(22, 0, 0, [0; 16385]), GoAway(FRAME_SIZE)),
        case("4.3", "the index 0", whole([0x80]), GoAway(PROTOCOL)).instead_of(COMPRESSION),
        case("4.3", "an index beyond the table", whole([0x82, 0xfe]), GoAway(PROTOCOL))
            .instead_of(COMPRESSION),
        case("4.3", "a table beyond its limit", whole([&[0x3f, 0xe2, 0x1f], GET].concat()), GoAway(PROTOCOL))
            .instead_of(COMPRESSION),
        case("4.3", "a change of the table at the end", whole([GET, &[0x20]].concat()), GoAway(PROTOCOL))
            .instead_of(COMPRESSION),
        case("4.3", "a block that is cut off", whole([GET, b"\x40\x05a"].concat()), GoAway(PROTOCOL))
            .instead_of(COMPRESSION),
        case(
            "4.3",
            "an end within Huffman's code",
            whole([GET, b"\0\x01x\x84\xff\xff\xff\xff"].concat()),
            GoAway(PROTOCOL),
        )
        .instead_of(COMPRESSION),
        case("4.3", "padding of zeros behind it", whole([GET, b"\0\x01x\x81\0"].concat()), GoAway(PROTOCOL))
            .instead_of(COMPRESSION),
        case(
            "4.3",
            "a number beyond numbers",
            whole([GET, b"\0\x01x\x7f\xff\xff\xff\xff\xff\xff\x7f"].concat()),
            GoAway(PROTOCOL),
        )
        .instead_of(COMPRESSION),
        case(
            "4.3",
            "another frame within a block",
            [begun(), frame(PING, 0, 0, [0; 8])].concat(),
            GoAway(PROTOCOL),
        ),
        case("4.3", "another stream within a block", [begun(), get(3)].concat(), GoAway(PROTOCOL)),
        case(
            "5.5",
            "an unknown frame within a block",
            [begun(), frame(22, 0, 1, "")].concat(),
            GoAway(PROTOCOL),
        ),
        case("5.5", "a setting that nobody knows", setting(0x99, 7), Ignored),
    ]
}

fn streams() -> Vec<Case> {
    let closed = |then: Vec<u8>| [post(1), reset(1), then].concat();
    let prioritized = |on: u32| {
        frame(HEADERS, END_STREAM | END_HEADERS | PRIORITIZED, 1, [&on.to_be_bytes()[..], &[1], GET].concat())
    };
    vec![
        case("5.1", "DATA on an idle stream", data(0, "x"), GoAway(PROTOCOL)),
        case("5.1", "RST_STREAM on an idle stream", reset(1), GoAway(PROTOCOL)),
        case("5.1", "WINDOW_UPDATE on an idle stream", window(1, 1), GoAway(PROTOCOL)),
        case(
            "5.1",
            "CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, GET),
            GoAway(PROTOCOL),
        ),
        case("5.1", "DATA behind the end", [get(1), data(0, "x")].concat(), GoAway(PROTOCOL))
            .instead_of(STREAM_CLOSED),
        case("5.1", "HEADERS behind the end", [get(1), get(1)].concat(), GoAway(PROTOCOL))
            .instead_of(STREAM_CLOSED),
        case("5.1", "DATA behind a reset", closed(data(0, "x")), Reset(1, CLOSED)),
        case("5.1", "HEADERS behind a reset", closed(get(1)), GoAway(PROTOCOL)).instead_of(STREAM_CLOSED),
        case("5.1", "WINDOW_UPDATE behind a reset", closed(window(1, 1)), Ignored),
        case("5.1", "RST_STREAM behind a reset", closed(reset(1)), Ignored),
        case("5.1", "PRIORITY behind a reset", closed(frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1])), Ignored),
        case("5.1.1", "an even stream", get(2), GoAway(PROTOCOL)),
        case("5.1.1", "a stream below another", [get(5), get(3)].concat(), GoAway(PROTOCOL)),
        case(
            "5.1.2",
            "more streams than may be",
            (0..1025).flat_map(|n| post(2 * n + 1)).collect(),
            Reset(2049, REFUSED),
        ),
        case("5.3", "a stream that depends on itself", prioritized(1), Reset(1, PROTOCOL))
            .instead_of("ignored: it was an error until RFC 7540 was replaced, and nobody sends it"),
        case("5.3", "a stream that depends on another", prioritized(3), Answer(200)),
        case("6.1", "DATA on no stream", frame(DATA, 0, 0, "x"), GoAway(PROTOCOL)),
        case(
            "6.1",
            "more padding than payload",
            [post(1), frame(DATA, PADDED, 1, [5, 1, 2])].concat(),
            GoAway(PROTOCOL),
        ),
        case("6.1", "padding of no length", [post(1), frame(DATA, PADDED, 1, "")].concat(), GoAway(PROTOCOL))
            .instead_of(FRAME_SIZE_ERROR),
        case(
            "6.1",
            "padding",
            [post(1), frame(DATA, PADDED | END_STREAM, 1, [2, b'x', 0, 0])].concat(),
            Answer(200),
        ),
        case("6.2", "HEADERS on no stream", frame(HEADERS, END_HEADERS, 0, GET), GoAway(PROTOCOL)),
        case(
            "6.2",
            "more padding than headers",
            frame(HEADERS, END_HEADERS | PADDED, 1, [&[200], GET].concat()),
            GoAway(PROTOCOL),
        ),
        case(
            "6.2",
            "half a priority",
            frame(HEADERS, END_HEADERS | PRIORITIZED, 1, [0; 2]),
            GoAway(PROTOCOL),
        )
        .instead_of(FRAME_SIZE_ERROR),
        case("6.3", "PRIORITY on no stream", frame(PRIORITY, 0, 0, [0, 0, 0, 0, 1]), GoAway(PROTOCOL)),
        case("6.3", "a PRIORITY of four bytes", frame(PRIORITY, 0, 1, [0; 4]), GoAway(PROTOCOL))
            .instead_of(STREAM_ERROR),
        case("6.4", "RST_STREAM on no stream", reset(0), GoAway(PROTOCOL)),
        case(
            "6.4",
            "an RST_STREAM of three bytes",
            [post(1), frame(RST_STREAM, 0, 1, [0; 3])].concat(),
            GoAway(PROTOCOL),
        )
        .instead_of(FRAME_SIZE_ERROR),
    ]
}

fn control() -> Vec<Case> {
    let begun = || frame(HEADERS, END_STREAM, 1, GET);
    let promise = || frame(PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2], GET].concat());
    vec![
        case(
            "6.5",
            "an acknowledgement that says something",
            frame(SETTINGS, ACK, 0, [0; 6]),
            GoAway(PROTOCOL),
        )
        .instead_of(FRAME_SIZE_ERROR),
        case("6.5", "SETTINGS of a stream", frame(SETTINGS, 0, 1, ""), GoAway(PROTOCOL)),
        case("6.5", "half a setting", frame(SETTINGS, 0, 0, [0; 5]), GoAway(PROTOCOL))
            .instead_of(FRAME_SIZE_ERROR),
        case("6.5", "an acknowledgement of nothing", frame(SETTINGS, ACK, 0, ""), Ignored),
        case("6.5.2", "push of 2", setting(2, 2), GoAway(PROTOCOL)),
        case("6.5.2", "a window beyond its limit", setting(4, 1 << 31), GoAway(PROTOCOL))
            .instead_of("FLOW_CONTROL_ERROR: another code"),
        case("6.5.2", "frames below their least size", setting(5, 16383), GoAway(PROTOCOL)),
        case("6.5.2", "frames beyond their greatest size", setting(5, 1 << 24), GoAway(PROTOCOL)),
        case("6.5.2", "extended CONNECT of 2", setting(8, 2), GoAway(PROTOCOL)),
        case("6.6", "a promise", promise(), GoAway(PROTOCOL)),
        case("6.6", "a promise on an open stream", [post(1), promise()].concat(), GoAway(PROTOCOL)),
        case("6.7", "PING of a stream", frame(PING, 0, 1, [0; 8]), GoAway(PROTOCOL)),
        case("6.7", "a PING of six bytes", frame(PING, 0, 0, [0; 6]), GoAway(PROTOCOL))
            .instead_of(FRAME_SIZE_ERROR),
        case("6.7", "an answer to no PING", frame(PING, ACK, 0, [9; 8]), Ignored),
        case("6.8", "GOAWAY of a stream", frame(GOAWAY, 0, 1, [0; 8]), GoAway(PROTOCOL)),
        case("6.8", "a GOAWAY of four bytes", frame(GOAWAY, 0, 0, [0; 4]), GoAway(PROTOCOL))
            .instead_of(FRAME_SIZE_ERROR),
        case("6.9", "no more window", window(0, 0), GoAway(PROTOCOL)),
        case("6.9", "no more window of a stream", [post(1), window(1, 0)].concat(), GoAway(PROTOCOL))
            .instead_of(STREAM_ERROR),
        case("6.9", "a WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3]), GoAway(PROTOCOL))
            .instead_of(FRAME_SIZE_ERROR),
        case("6.9.1", "a window beyond numbers", window(0, i32::MAX as u32), GoAway(FLOW_CONTROL)),
        case(
            "6.9.1",
            "a stream's window beyond numbers",
            [post(1), window(1, i32::MAX as u32)].concat(),
            Reset(1, FLOW_CONTROL),
        ),
        case(
            "6.9.2",
            "a window beyond numbers by SETTINGS",
            [post(1), window(1, i32::MAX as u32 - 65535), setting(4, i32::MAX as u32)].concat(),
            GoAway(FLOW_CONTROL),
        ),
        case(
            "6.10",
            "CONTINUATION of no stream",
            [begun(), frame(CONTINUATION, END_HEADERS, 0, "")].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10",
            "CONTINUATION of another",
            [begun(), frame(CONTINUATION, END_HEADERS, 3, "")].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10",
            "CONTINUATION behind the end",
            [post(1), frame(CONTINUATION, END_HEADERS, 1, "")].concat(),
            GoAway(PROTOCOL),
        ),
        case(
            "6.10",
            "a block in three pieces",
            [
                frame(HEADERS, END_STREAM, 1, &GET[..3]),
                frame(CONTINUATION, 0, 1, &GET[3..5]),
                frame(CONTINUATION, END_HEADERS, 1, &GET[5..]),
            ]
            .concat(),
            Answer(200),
        ),
    ]
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/");
const AUTHORITY: (&str, &str) = (":authority", "catalog");

fn messages() -> Vec<Case> {
    let raw = |headers: &[(&str, &str)]| whole(block(headers));
    let path = |path: &str| whole(block(&[METHOD, SCHEME, (":path", path), AUTHORITY]));
    let authority = |authority: &str| whole(block(&[METHOD, SCHEME, PATH, (":authority", authority)]));
    let connect = (":method", "CONNECT");
    let malformed = Reset(1, PROTOCOL);
    let mut cases = vec![
        case("8.1", "trailers", trailers(END_STREAM, &[("x", "y")]), Answer(200)),
        case("8.1", "trailers that do not end the stream", trailers(0, &[("x", "y")]), malformed),
        case("8.1", "a pseudo-header in trailers", trailers(END_STREAM, &[(":path", "/")]), Answer(200))
            .instead_of("malformed: it is left out, and the application sees nothing of it"),
        case(
            "8.2.2",
            "a coding in trailers",
            trailers(END_STREAM, &[("transfer-encoding", "chunked")]),
            malformed,
        ),
        case("8.1.1", "a length, and that much", post_with(&[("content-length", "3")], "abc"), Answer(200)),
        case("8.1.1", "a length without a body", get_with(&[("content-length", "5")]), malformed),
        case("8.1.1", "less than the length", post_with(&[("content-length", "5")], "abc"), malformed),
        case("8.1.1", "more than the length", post_with(&[("content-length", "2")], "abc"), malformed),
        case(
            "8.1.1",
            "two lengths",
            post_with(&[("content-length", "3"), ("content-length", "30")], "abc"),
            malformed,
        ),
        case(
            "8.1.1",
            "two lengths, turned round",
            post_with(&[("content-length", "30"), ("content-length", "3")], "abc"),
            malformed,
        ),
        case("8.2.1", "a space before a value", get_with(&[("x", " a")]), Answer(200))
            .instead_of("malformed: on HTTP/1.1 it means nothing, and on HTTP/2 it stays what it is"),
        case("8.2.1", "a tab behind a value", get_with(&[("x", "a\t")]), Answer(200))
            .instead_of("malformed: as the space before it"),
        case("8.2.2", "te: trailers", get_with(&[("te", "trailers")]), Answer(200)),
        case("8.2.3", "a cookie in pieces", get_with(&[("cookie", "a=1"), ("cookie", "b=2")]), Answer(200)),
        case(
            "8.3",
            "a pseudo-header behind a header",
            raw(&[METHOD, SCHEME, ("x", "y"), PATH, AUTHORITY]),
            malformed,
        ),
        case(
            "8.3",
            "a pseudo-header of answers",
            raw(&[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")]),
            malformed,
        ),
        case(
            "8.3",
            "a pseudo-header that nobody knows",
            raw(&[METHOD, SCHEME, PATH, AUTHORITY, (":x", "y")]),
            GoAway(PROTOCOL),
        )
        .instead_of(STREAM_ERROR),
        case("8.3.1", "two authorities", raw(&[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY]), malformed),
        case("8.3.1", "another scheme", raw(&[METHOD, (":scheme", "ftp"), PATH, AUTHORITY]), Answer(200)),
        case(
            "8.3.1",
            "a scheme with more in it",
            raw(&[METHOD, (":scheme", "http://b/?"), PATH, AUTHORITY]),
            malformed,
        ),
        case(
            "8.3.1",
            "* for OPTIONS",
            raw(&[(":method", "OPTIONS"), SCHEME, (":path", "*"), AUTHORITY]),
            Answer(200),
        ),
        case("8.3.1", "* for GET", path("*"), Answer(400)),
        case(
            "8.3.1",
            "a method with more in it",
            raw(&[(":method", "GET / HTTP/1.1"), SCHEME, PATH, AUTHORITY]),
            GoAway(PROTOCOL),
        )
        .instead_of(STREAM_ERROR),
        case("8.3.1", "a name before the host", authority("name@catalog"), Answer(400)),
        case("8.3.1", "no host at all", raw(&[METHOD, SCHEME, PATH]), Answer(400)),
        case("8.3.1", "a Host alone", raw(&[METHOD, SCHEME, PATH, ("host", "catalog")]), Answer(200)),
        case("8.3.1", "a Host that agrees", get_with(&[("host", "catalog")]), Answer(200)),
        case("8.3.1", "a Host that does not", get_with(&[("host", "b")]), Answer(400)),
        case("8.3.1", "two Hosts", raw(&[METHOD, SCHEME, PATH, ("host", "a"), ("host", "b")]), Answer(400)),
        case("8.5", "CONNECT with a path", raw(&[connect, SCHEME, PATH, AUTHORITY]), malformed),
        case(
            "8.5",
            "extended CONNECT",
            raw(&[connect, (":protocol", "x"), SCHEME, PATH, AUTHORITY]),
            malformed,
        ),
        case(
            "8.5",
            "a protocol without CONNECT",
            raw(&[METHOD, (":protocol", "x"), SCHEME, PATH, AUTHORITY]),
            malformed,
        ),
    ];
    for length in ["3, 3", "+3", "", "three"] {
        cases.push(case("8.1.1", "no length", post_with(&[("content-length", length)], "abc"), malformed));
    }
    for (name, value) in [
        ("X", "a"),
        ("x y", "a"),
        ("x:y", "a"),
        ("x\0", "a"),
        ("", "a"),
        ("x", "a\rb"),
        ("x", "a\nb"),
        ("x", "a\r\nhost: b"),
        ("x", "a\0"),
    ] {
        let sent = case(
            "8.2.1",
            "a name or value that HTTP/1.1 would read otherwise",
            get_with(&[(name, value)]),
            GoAway(PROTOCOL),
        );
        cases.push(sent.instead_of(STREAM_ERROR));
    }
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ] {
        cases.push(case("8.2.2", "a header of the hop", get_with(&[(name, value)]), malformed));
    }
    let all = [METHOD, SCHEME, PATH, AUTHORITY];
    for left_out in 0..3 {
        let without: Vec<_> =
            all.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, header)| *header).collect();
        cases.push(case("8.3.1", "a pseudo-header too few", raw(&without), malformed));
        cases.push(case(
            "8.3.1",
            "one twice",
            raw(&[&all[..], &all[left_out..=left_out]].concat()),
            malformed,
        ));
    }
    for odd in ["", "abc", "http://b/x", "/a b", "/ HTTP/1.1\r\nx: y", "/a\0"] {
        cases.push(case("8.3.1", "a path that is none", path(odd), malformed));
    }
    for odd in ["", "a/b", "a b", "a\r\nx: y"] {
        cases.push(case("8.3.1", "a host that is none", authority(odd), malformed));
    }
    cases
}

/// The next request: `GET http://next/`.
const NEXT: &[u8] = b"\x82\x86\x84\x41\x04next";
const NEXT_STREAM: u32 = 9001;

/// What comes of a case.
async fn outcome(stream: impl AsyncRead + AsyncWrite + Unpin, case: &Case) -> Result<Want, String> {
    let mut peer = if case.section == "3.4" { Framed::new(stream) } else { Framed::begin(stream).await };
    peer.say(&case.bytes).await;
    let awaited = match case.want {
        Answer(_) => Some(1),
        Reset(stream, _) => Some(stream),
        Ignored | GoAway(_) | Ended => None,
    };
    let mut asked = false;
    let mut found = Ignored;
    loop {
        if !asked && (case.want == Ignored || awaited.is_some() && found != Ignored) {
            asked = true;
            peer.say(frame(HEADERS, END_STREAM | END_HEADERS, NEXT_STREAM, NEXT)).await;
        }
        let Some(heard) = peer.hear().await else {
            return match found {
                GoAway(_) => Ok(found),
                Ignored => Ok(Ended),
                found => Err(format!("{found:?}, and then the end")),
            };
        };
        match heard.kind {
            GOAWAY => found = GoAway(heard.code()),
            RST_STREAM if heard.stream == NEXT_STREAM && matches!(found, Reset(2049, _)) => return Ok(found),
            RST_STREAM if Some(heard.stream) == awaited || awaited.is_none() => {
                found = Reset(heard.stream, heard.code());
            }
            HEADERS if heard.stream == NEXT_STREAM => return Ok(found),
            HEADERS if heard.stream == 1 => found = Answer(heard.status()),
            _ => {}
        }
    }
}

/// Answers what is whole, and counts it, but for the next request.
async fn application(speaks: Speaks) -> (App, Arc<AtomicUsize>) {
    let whole = Arc::<AtomicUsize>::default();
    let count = whole.clone();
    let app = App::start(speaks, move |request: Request<Incoming>| {
        let count = count.clone();
        async move {
            let host =
                request.uri().host().or(request.headers().get("host").and_then(|host| host.to_str().ok()));
            let is_next = host == Some("next");
            if request.into_body().collect().await.is_ok() && !is_next {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Response::new(full(""))
        }
    });
    (app.await, whole)
}

async fn hold(cases: Vec<Case>) {
    let (http2, whole_http2) = application(Speaks::Http2).await;
    let (http1, whole_http1) = application(Speaks::Http1).await;
    let mesh = Mesh::start(Protocol::Http2, &[("west", http2.address)]).await;
    let downgrading = Mesh::start(Protocol::Http, &[("west", http1.address)]).await;
    for case in &cases {
        let what = format!("{}: {}", case.section, case.why);
        let outcomes = [
            ("outbound", outcome(TcpStream::connect(mesh.outbound).await.unwrap(), case).await),
            ("inbound", outcome(mesh.peer(Alpn::H2).await, case).await),
            ("inbound before HTTP/1.1", outcome(downgrading.peer(Alpn::H2).await, case).await),
        ];
        for (edge, found) in outcomes {
            assert_eq!(found, Ok(case.want), "{what}, {edge}, instead of {:?}", case.instead_of);
        }
        let passed = [&whole_http2, &whole_http1].map(|whole| whole.swap(0, Ordering::Relaxed));
        match case.want {
            Answer(200) => assert_eq!(passed, [2, 1], "{what}"),
            // A connection that ends may have been served before.
            GoAway(_) if case.section.starts_with('5') => {}
            _ => assert_eq!(passed, [0, 0], "{what}: it reached an application"),
        }
    }
    mesh.stop().await;
    downgrading.stop().await;
}

#[tokio::test]
async fn rfc9113_sections_3_4_and_5_5_prefaces_frames_and_their_compression() {
    hold(frames_and_errors()).await;
}

#[tokio::test]
async fn rfc9113_sections_5_1_to_6_4_streams_and_what_opens_and_ends_them() {
    hold(streams()).await;
}

#[tokio::test]
async fn rfc9113_sections_6_5_to_6_10_settings_windows_and_continuations() {
    hold(control()).await;
}

#[tokio::test]
async fn s08_rfc9113_section_8_messages_that_are_malformed() {
    hold(messages()).await;
}
