//! Answers of the proxy itself (RFC 9457).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    /// One word that stays the same, for programs.
    reason: &'a str,
    detail: &'a str,
}

/// An answer with one word for programs and a sentence for people.
pub(crate) fn problem(status: StatusCode, reason: &str, detail: &str) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { title, status: status.as_u16(), reason, detail };
    let body = serde_json::to_vec(&problem).expect("a struct of texts is always JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
