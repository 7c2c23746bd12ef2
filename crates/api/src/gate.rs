//! What stands before every route: who asks, from where, how much, and for how long.
//!
//! Nothing here is anonymous, no request reaches a route without a caller, and no error leaves but as a
//! problem. A route that panics costs its own request alone.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::Limited;
use tokio::time::{self, Instant};
use tracing::{debug, error, info};

use crate::problem::PROBLEM_JSON;
use crate::shapes::Problem;

/// A request's body may have this many bytes; a document half of it.
pub const MOST_BODY: usize = 1024 * 1024;

/// A request takes at most this long, a long poll included.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);

/// Who asks. Routes find it among the extensions of their request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    pub name: Arc<str>,
}

/// Tells a caller by the bearer token, or nobody. Comparing takes the same time for all wrong tokens.
pub trait Auth: Send + Sync + 'static {
    fn caller(&self, token: &str) -> Option<Caller>;
}

impl<F> Auth for F
where
    F: Fn(&str) -> Option<Caller> + Send + Sync + 'static,
{
    fn caller(&self, token: &str) -> Option<Caller> {
        self(token)
    }
}

/// The one administrator token of a control plane. Keeps its digest only.
pub struct AdminToken(Digest);

impl AdminToken {
    pub fn new(token: &str) -> Self {
        Self(digest(&SHA256, token.as_bytes()))
    }
}

impl Auth for AdminToken {
    fn caller(&self, token: &str) -> Option<Caller> {
        let offered = digest(&SHA256, token.as_bytes());
        constant_time::verify_slices_are_equal(offered.as_ref(), self.0.as_ref())
            .is_ok()
            .then(|| Caller { name: "admin".into() })
    }
}

/// Whether whoever asked would still be let in: for answers that go on and on. Routes find it among the
/// extensions of their request.
#[derive(Clone)]
pub(crate) struct StillKnown {
    auth: Arc<dyn Auth>,
    token: Arc<str>,
}

impl StillKnown {
    pub(crate) fn holds(&self) -> bool {
        self.auth.caller(&self.token).is_some()
    }
}

/// Marks a connection on which somebody proved who they are; the others do not stay open for long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct Gate {
    pub(crate) auth: Arc<dyn Auth>,
    /// Under which names browsers may come, beside `localhost` and plain addresses.
    pub(crate) hosts: BTreeSet<String>,
}

/// The outermost layer.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (caller, response) = match gate.admit(request) {
        Ok((caller, request)) => (Some(caller), guarded(next.run(request)).await),
        Err(problem) => (None, problem.into_response()),
    };
    let mut response = as_problem(response, &method, &path).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

    let status = response.status().as_u16();
    let caller = caller.as_ref().map_or("", |caller| &caller.name);
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    if matches!(method, Method::GET | Method::HEAD) {
        debug!(%method, path, status, caller, millis, "request");
    } else {
        info!(%method, path, status, caller, millis, "request");
    }
    response
}

impl Gate {
    /// Lets a request through, with its caller among its extensions and its body bounded.
    fn admit(&self, request: Request) -> Result<(Caller, Request), Problem> {
        let (mut parts, body) = request.into_parts();
        self.check_browser(&parts.headers, parts.uri.authority())?;
        let token = bearer(&parts.headers)?;
        let caller = self.auth.caller(token).ok_or_else(|| {
            Problem::unauthenticated("this token is not known here: each control plane has tokens of its own")
        })?;
        if let Some(known) = parts.extensions.get::<Known>() {
            known.set();
        }
        let announced =
            parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > MOST_BODY as u64) {
            return Err(body_too_large());
        }
        let still_known = StillKnown { auth: self.auth.clone(), token: token.into() };
        parts.extensions.insert(still_known);
        parts.extensions.insert(caller.clone());
        Ok((caller, Request::from_parts(parts, Body::new(Limited::new(body, MOST_BODY)))))
    }

    /// Pages of other sites may not speak to us, nor may a name that someone else's DNS points here.
    fn check_browser(&self, headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), Problem> {
        let site = headers.get("sec-fetch-site");
        let origin = headers.get(ORIGIN);
        if site.is_none() && origin.is_none() {
            return Ok(());
        }
        let host = match authority {
            Some(authority) => authority.as_str(),
            None => headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        let ours = host.parse::<Authority>().is_ok_and(|authority| self.is_ours(authority.host()));
        let same_site = site.is_none_or(|site| site == "same-origin" || site == "none");
        let same_origin =
            origin.is_none_or(|origin| origin.as_bytes() == format!("https://{host}").as_bytes());
        if ours && same_site && same_origin {
            Ok(())
        } else {
            Err(Problem::forbidden("a page of another site may not speak to this API"))
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Problem::unauthenticated("send the token as 'Authorization: Bearer ...', once"));
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.ok_or_else(|| Problem::unauthenticated("send the token as 'Authorization: Bearer ...'"))
}

/// Runs a route; a panic or a limit that is passed becomes an answer.
async fn guarded(route: impl Future<Output = Response>) -> Response {
    match time::timeout(REQUEST_LIMIT, AssertUnwindSafe(route).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            error!(panic = runtime::tasks::panic_text(panic.as_ref()), "a route panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable("the request took too long").into_response(),
    }
}

/// Errors of the router and of extractors are texts or empty: they become problems as well.
async fn as_problem(response: Response, method: &Method, path: &str) -> Response {
    let status = response.status();
    let told = response.headers().get(CONTENT_TYPE) == Some(&PROBLEM_JSON);
    if told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, 4096).await.ok().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let text = text.filter(|text| !text.is_empty() && !status.is_server_error());
    let problem = match status {
        StatusCode::NOT_FOUND => {
            Problem::not_found(text.unwrap_or_else(|| format!("there is nothing at {path}")))
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::method_not_allowed(text.unwrap_or_else(|| format!("{method} is not possible on {path}")))
        }
        StatusCode::PAYLOAD_TOO_LARGE => body_too_large(),
        status if status.is_server_error() => Problem { status: status.as_u16(), ..Problem::internal() },
        status => Problem::new(
            status,
            "invalid-request",
            "The request is not valid",
            text.unwrap_or_else(|| status.canonical_reason().unwrap_or("refused").to_lowercase()),
        ),
    };
    let mut response = problem.into_response();
    for (name, value) in &parts.headers {
        // `Allow`, `Retry-After` and the like still count; the old body's headers do not.
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

pub(crate) fn body_too_large() -> Problem {
    Problem::too_large(format!("a request has at most {} KiB", MOST_BODY / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate { auth: Arc::new(AdminToken::new("right")), hosts: ["cp.example.org".to_owned()].into() }
    }

    #[test]
    fn only_the_right_token_has_a_caller() {
        let auth = AdminToken::new("right");
        for (token, known) in
            [("right", true), ("wrong", false), ("", false), ("right ", false), ("righ", false)]
        {
            assert_eq!(auth.caller(token).is_some(), known, "{token:?}");
        }
    }

    #[test]
    fn s49_pages_of_other_sites_and_rebound_names_are_refused() {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(&str, Headers, bool); 10] = [
            ("a program", &[("host", "anything.example")], true),
            ("our own page", &[("host", "127.0.0.1:5681"), ("origin", "https://127.0.0.1:5681")], true),
            (
                "our own page by name",
                &[("host", "cp.example.org"), ("origin", "https://cp.example.org")],
                true,
            ),
            ("our own page, v6", &[("host", "[::1]:5681"), ("sec-fetch-site", "same-origin")], true),
            ("typed in", &[("host", "localhost:5681"), ("sec-fetch-site", "none")], true),
            ("another site", &[("host", "127.0.0.1:5681"), ("origin", "https://evil.example")], false),
            ("another port", &[("host", "127.0.0.1:5681"), ("origin", "https://127.0.0.1:80")], false),
            ("a sandbox", &[("host", "127.0.0.1:5681"), ("origin", "null")], false),
            ("cross-site", &[("host", "127.0.0.1:5681"), ("sec-fetch-site", "cross-site")], false),
            ("rebound", &[("host", "evil.example"), ("origin", "https://evil.example")], false),
        ];
        for (why, headers, passes) in cases {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>();
            assert_eq!(gate().check_browser(&headers, None).is_ok(), passes, "{why}");
        }
    }

    #[test]
    fn a_token_is_sent_once_and_as_bearer() {
        for (values, want) in [
            (&["Bearer abc"][..], Some("abc")),
            (&["bearer abc"][..], Some("abc")),
            (&["Basic abc"][..], None),
            (&["abc"][..], None),
            (&[][..], None),
            (&["Bearer abc", "Bearer def"][..], None),
        ] {
            let headers =
                values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect::<HeaderMap>();
            assert_eq!(bearer(&headers).ok(), want, "{values:?}");
        }
    }
}
