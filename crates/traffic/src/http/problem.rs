//! Answers of the proxy itself, in the words of who asked: RFC 9457, or the status of gRPC.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// In which words a request is answered where no application does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Words {
    /// `application/problem+json`
    Problem,
    /// A status of gRPC, without a body and without trailers of its own: its clients look at nothing else.
    Grpc,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    /// One word that stays the same, for programs.
    reason: &'a str,
    detail: &'a str,
}

impl Words {
    /// As who sends these headers understands.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let is_grpc = |value: &HeaderValue| {
            let (start, rest) = value.as_bytes().split_at(value.len().min(16));
            // That of gRPC-Web is another protocol.
            start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest, [] | [b'+' | b';', ..])
        };
        if headers.get(CONTENT_TYPE).is_some_and(is_grpc) { Self::Grpc } else { Self::Problem }
    }

    /// An answer with one word for programs and a sentence for people.
    pub(crate) fn answer(self, status: StatusCode, reason: &str, detail: &str) -> Response<Bytes> {
        match self {
            Self::Problem => problem(status, reason, detail),
            Self::Grpc => grpc(status, reason, detail),
        }
    }
}

fn problem(status: StatusCode, reason: &str, detail: &str) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { title, status: status.as_u16(), reason, detail };
    let body = serde_json::to_vec(&problem).expect("a struct of texts is always JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Trailers only, as the protocol of gRPC over HTTP/2 calls it: they stand in the place of the headers.
fn grpc(status: StatusCode, reason: &str, detail: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, code(status).into());
    let message = percent_encoded(&format!("{reason}: {detail}"));
    headers.insert(GRPC_MESSAGE, message.try_into().expect("what is encoded is visible ASCII and spaces"));
    response
}

/// The code that says the same.
fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::GATEWAY_TIMEOUT => 4,
        _ => 2,
    }
}

/// As the protocol of gRPC over HTTP/2 encodes messages (`Percent-Encoded` there).
fn percent_encoded(message: &str) -> String {
    message.bytes().fold(String::with_capacity(message.len()), |mut encoded, byte| {
        match byte {
            b'%' | ..b' ' | 0x7f.. => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(byte.into()),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks_grpc_is_answered_with_a_status_of_grpc_and_nothing_else() {
        let cases = [
            (400, "13"),
            (403, "7"),
            (404, "12"),
            (501, "12"),
            (502, "14"),
            (503, "14"),
            (504, "4"),
            (418, "2"),
        ];
        for (status, want) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let response = Words::Grpc.answer(status, "why", "no 100 % cafés,\nsorry");
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.body().is_empty());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert_eq!(response.headers()[GRPC_STATUS], want, "{status}");
            assert_eq!(response.headers()[GRPC_MESSAGE], "why: no 100 %25 caf%C3%A9s,%0Asorry");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let cases = [
            ("application/grpc", Words::Grpc),
            ("Application/gRPC+proto", Words::Grpc),
            ("application/grpc; charset=x", Words::Grpc),
            ("application/grpc-web+proto", Words::Problem),
            ("application/grpcish", Words::Problem),
            ("application/json", Words::Problem),
            ("application/grp", Words::Problem),
        ];
        for (value, want) in cases {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(value))].into_iter().collect();
            assert_eq!(Words::of(&headers), want, "{value}");
        }
        assert_eq!(Words::of(&HeaderMap::new()), Words::Problem);
    }
}
