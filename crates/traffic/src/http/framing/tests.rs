//! Against a second reader: what hyper gets to see is what one who doubts everything reads as well.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use snapshot::parts::Timeouts;
use tokio::{runtime, time};

use super::*;
use crate::deadline::Deadlines;
use crate::http::bounded::Requests;
use crate::http::edge;

/// What came of the whole, where `|` parts what is read at once.
fn followed(text: &str) -> Result<Followed, (usize, Ambiguity)> {
    let mut framing = Framing::default();
    let mut last = Followed::All;
    for piece in text.split('|') {
        last = framing.follow(piece.as_bytes());
        if let Followed::Ambiguous(at, ambiguity) = last {
            return Err((at, ambiguity));
        }
    }
    Ok(last)
}

#[test]
fn what_is_beyond_doubt_passes() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G|ET / HTTP/1.1\r|\nHost: a|\r\n\r|\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length:3 \r\n\r\n\n|\n\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding:\tChunked \r\n\r\n2\r\n\n\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA ;x=\"y\"\r\n01234|56789\r|\n0\r\nX: y\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(followed(text), Ok(Followed::All), "{text:?}");
    }
    let asks = "GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n";
    assert_eq!(followed(&format!("{asks}\n\n")), Ok(Followed::Asks(asks.len())));
}

#[test]
fn s08_what_is_not_stops_before_it_counts() {
    let post = |headers: &str| format!("POST / HTTP/1.1\r\n{headers}\r\n");
    let chunked = |body: &str| format!("{}{body}", post("Transfer-Encoding: chunked\r\n"));
    let cases = [
        ("GET / HTTP/1.1\n".into(), 14, Ambiguity::BareLineFeed),
        ("\nGET / HTTP/1.1\r\n".into(), 0, Ambiguity::BareLineFeed),
        (post("Host: a|\nX: y\r\n"), 0, Ambiguity::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".into(), 25, Ambiguity::BareLineFeed),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n"), 54, Ambiguity::Length),
        (post("Content-Length: +1\r\n"), 36, Ambiguity::Length),
        (post("Content-Length: 1, 1\r\n"), 38, Ambiguity::Length),
        (post("Content-Length:\r\n"), 33, Ambiguity::Length),
        (post("Content-Length: 18446744073709551616\r\n"), 54, Ambiguity::Length),
        (post("Transfer-Encoding: gzip, chunked\r\n"), 50, Ambiguity::Coding),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 72, Ambiguity::Coding),
        (post("TRANSFER-encoding: identity\r\n"), 45, Ambiguity::Coding),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 65, Ambiguity::LengthAndCoding),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 65, Ambiguity::LengthAndCoding),
        (chunked("1\nx"), 48, Ambiguity::BareLineFeed),
        (chunked("1;\nx"), 49, Ambiguity::BareLineFeed),
        (chunked("1;a\rb\r\nx"), 53, Ambiguity::Chunk),
        (chunked("1;\0\r\nx"), 51, Ambiguity::Chunk),
        (chunked("x\r\n"), 49, Ambiguity::Chunk),
        (chunked(" 1\r\n"), 50, Ambiguity::Chunk),
        (chunked("1 1\r\n"), 51, Ambiguity::Chunk),
        (chunked("10000000000000000\r\n"), 65, Ambiguity::Chunk),
        (chunked("1\r\nxy\r\n"), 53, Ambiguity::Chunk),
        (chunked("1\r\nx\n"), 51, Ambiguity::BareLineFeed),
        (chunked("0\r\n\n"), 50, Ambiguity::BareLineFeed),
        (chunked("0\r\nX: y\n\nGET / HTTP/1.1\r\n\r\n"), 54, Ambiguity::BareLineFeed),
        ("x".repeat(HEADER_LIST as usize + 1), 0, Ambiguity::LongLine),
    ];
    for (text, at, ambiguity) in cases {
        assert_eq!(followed(&text), Err((at, ambiguity)), "{text:?}");
    }
}

/// A request as somebody read it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Read {
    line: String,
    body: Vec<u8>,
}

/// Gives one piece per read, and then nothing more.
struct Script(VecDeque<Vec<u8>>);

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
        let taken = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..taken]);
        piece.drain(..taken);
        if !piece.is_empty() {
            self.0.push_front(piece);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The request lines that our service got, and of those the requests that were whole.
fn read_by_hyper(bytes: &[u8], sizes: &[usize]) -> (Vec<String>, Vec<Read>) {
    let mut pieces = VecDeque::new();
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().map_or(1, |size| (*size).min(rest.len())));
        pieces.push_back(now.to_vec());
        rest = later;
    }
    let (lines, whole) = (RefCell::<Vec<_>>::default(), RefCell::<Vec<_>>::default());
    let switching = Switching::default();
    let served = async {
        let service = service_fn(|request: Request<Incoming>| {
            let line = format!("{} {}", request.method(), request.uri());
            lines.borrow_mut().push(line.clone());
            let whole = &whole;
            Box::pin(async move {
                if let Ok(body) = request.into_body().collect().await {
                    let body = body.to_bytes().to_vec();
                    whole.borrow_mut().push(Read { line, body });
                }
                Ok::<_, Infallible>(Response::new(String::new()))
            })
        });
        let requests = Requests::new(&Deadlines::default(), &Timeouts::default());
        let stream = TokioIo::new(Strict::new(Script(pieces), &switching, &requests));
        // How it ended, or that it waits for more, is not asked here.
        let _ = time::timeout(Duration::from_secs(1), edge::http1().serve_connection(stream, service)).await;
    };
    let mut runtime = runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(served);
    (lines.into_inner(), whole.into_inner())
}

/// The same by one who takes nothing but what the grammar says, and stops at the first thing else.
fn read_strictly(bytes: &[u8]) -> (Vec<String>, Vec<Read>) {
    let (mut lines, mut whole) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    while let Some(read) = read_one(&mut rest, &mut lines) {
        whole.push(read);
    }
    (lines, whole)
}

fn read_one(rest: &mut &[u8], lines: &mut Vec<String>) -> Option<Read> {
    let mut line = take_line(rest)?;
    while line.is_empty() {
        line = take_line(rest)?;
    }
    let text = str::from_utf8(line).ok()?;
    let [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = text.split(' ').collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    loop {
        let header = take_line(rest)?;
        if header.is_empty() {
            break;
        }
        let colon = header.iter().position(|byte| *byte == b':')?;
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if colon == 0 || !header[..colon].iter().all(is_token) {
            return None;
        }
        let value = str::from_utf8(&header[colon + 1..]).ok()?.trim_matches([' ', '\t']);
        match str::from_utf8(&header[..colon]).ok()?.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    let line = format!("{method} {target}");
    match (&codings[..], &lengths[..]) {
        ([], []) => lines.push(line.clone()),
        ([], [length, others @ ..]) => {
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                if digits { text.parse::<usize>().ok() } else { None }
            };
            let length = number(length)?;
            if others.iter().any(|other| number(other) != Some(length)) {
                return None;
            }
            lines.push(line.clone());
            body.extend(take(rest, length)?);
        }
        ([coding], []) if coding == "chunked" && version == "HTTP/1.1" => {
            lines.push(line.clone());
            loop {
                let size = str::from_utf8(take_line(rest)?).ok()?;
                let size = size.split(';').next()?.trim_end_matches([' ', '\t']);
                if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                match usize::from_str_radix(size, 16).ok()? {
                    0 => break,
                    size => body.extend(take(rest, size)?),
                }
                if take(rest, 2)? != b"\r\n" {
                    return None;
                }
            }
            while !take_line(rest)?.is_empty() {}
        }
        _ => return None,
    }
    Some(Read { line, body })
}

/// Up to the next CRLF, with no CR, LF or NUL before it.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0))?;
    let line = take(rest, end)?;
    if take(rest, 2)? == b"\r\n" { Some(line) } else { None }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

#[derive(Clone, Debug)]
enum Change {
    Insert(&'static str),
    Replace(u8),
    Remove,
}

const NASTY: [&str; 20] = [
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\n\r\n",
    " ",
    "\t",
    "\0",
    ":",
    ";",
    "0",
    "0\r\n\r\n",
    "1\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n",
    "\nGET /evil HTTP/1.1\r\n\r\n",
    "GET /evil HTTP/1.1\r\n\r\n",
];

fn message() -> impl Strategy<Value = String> {
    let head = |number: u8| format!("POST /{number} HTTP/1.1\r\nHost: a\r\n");
    let body = "[ab\r\n]{1,12}";
    prop_oneof![
        any::<u8>().prop_map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (any::<u8>(), body).prop_map(move |(number, body)| {
            format!("{}Content-Length: {}\r\n\r\n{body}", head(number), body.len())
        }),
        (any::<u8>(), prop::collection::vec(body, 0..3), any::<bool>()).prop_map(
            move |(number, chunks, more)| {
                let chunk = |chunk: String| format!("{:x}\r\n{chunk}\r\n", chunk.len());
                let chunks: String = chunks.into_iter().map(chunk).collect();
                let end = if more { "0;x=y\r\nX: y\r\n\r\n" } else { "0\r\n\r\n" };
                format!("{}Transfer-Encoding: chunked\r\n\r\n{chunks}{end}", head(number))
            }
        ),
    ]
}

fn change() -> impl Strategy<Value = (prop::sample::Index, Change)> {
    let change = prop_oneof![
        3 => prop::sample::select(&NASTY[..]).prop_map(Change::Insert),
        1 => prop::sample::select(&b"\r\n :;0\0x"[..]).prop_map(Change::Replace),
        1 => Just(Change::Remove),
    ];
    (any::<prop::sample::Index>(), change)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn s08_nobody_sees_a_request_that_a_strict_reader_does_not(
        messages in prop::collection::vec(message(), 1..4),
        changes in prop::collection::vec(change(), 0..3),
        sizes in prop::collection::vec(1_usize..200, 1..4),
    ) {
        let mut bytes = messages.concat().into_bytes();
        for (at, change) in &changes {
            let at = at.index(bytes.len());
            match change {
                Change::Insert(text) => {
                    bytes.splice(at..at, text.bytes());
                }
                Change::Replace(byte) => bytes[at] = *byte,
                Change::Remove => {
                    bytes.remove(at);
                }
            }
        }
        let (lines, whole) = read_by_hyper(&bytes, &sizes);
        let (strict_lines, strict_whole) = read_strictly(&bytes);
        prop_assert!(strict_lines.starts_with(&lines), "{lines:?} of {strict_lines:?}");
        prop_assert!(strict_whole.starts_with(&whole), "{whole:?} of {strict_whole:?}");
        if changes.is_empty() {
            prop_assert_eq!(whole.len(), messages.len());
        }
    }
}
