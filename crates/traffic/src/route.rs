//! What becomes of a request of the own application: decided from the request and the part of its destination,
//! then done by `http`.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, request};
use model::DestinationId;
use policy::path;
use policy::route::{Asked, deciding, pick};
use snapshot::parts::Destination;
use telemetry::Flag;

/// What to do with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Plan<'a> {
    /// Send it under this name to the destination of its listener.
    Forward(Uri),
    /// Send it under this name to another destination, or to the same again.
    Route(Uri, &'a DestinationId),
    Refuse(Refusal),
}

/// Why a request is not sent anywhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the request names no host, or more than one")]
    NoHost,
    #[error("the request names one host as its authority, and another in a header")]
    TwoHosts,
    #[error("the host of the request cannot be read")]
    BadHost,
    #[error("the path of the request cannot be read")]
    BadPath,
    #[error("CONNECT is not carried")]
    Connect,
    #[error("the path of the request can be read in more than one way, and decides where it goes")]
    AmbiguousPath,
    #[error("no route of the destination covers the request")]
    NoRoute,
    #[error("the route of the request leads nowhere: none of its backends is known and has weight")]
    NoBackend,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoHost
            | Self::TwoHosts
            | Self::BadHost
            | Self::BadPath
            | Self::Connect
            | Self::AmbiguousPath => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn flag(self) -> Flag {
        match self {
            Self::NoRoute => Flag::NoRoute,
            Self::NoBackend => Flag::NoBackend,
            _ => Flag::BadRequest,
        }
    }
}

/// Decides by the part of the destination that the request's listener leads to. `roll` gives a number below the
/// one that it is given.
pub fn plan<'a>(
    destination: &'a Destination,
    request: &request::Parts,
    roll: impl FnOnce(u64) -> u64,
) -> Plan<'a> {
    let planned = target(request).and_then(|target| {
        // Most destinations have none.
        if destination.routes.is_empty() {
            return Ok(Plan::Forward(target));
        }
        Ok(Plan::Route(target, backend(destination, request, roll)?))
    });
    planned.unwrap_or_else(Plan::Refuse)
}

fn backend<'a>(
    destination: &'a Destination,
    request: &request::Parts,
    roll: impl FnOnce(u64) -> u64,
) -> Result<&'a DestinationId, Refusal> {
    let path = match request.uri.path() {
        // The whole server: rules that ask for a path do not cover it.
        "*" => "*".into(),
        path => path::plain(path).map_err(|_| Refusal::AmbiguousPath)?,
    };
    let header = |name: &str| request.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let asked = Asked { path: &path, method: request.method.as_str(), header };
    let rule = deciding(&destination.routes, &asked).ok_or(Refusal::NoRoute)?;
    pick(&rule.backends, roll).map(|backend| &backend.destination).ok_or(Refusal::NoBackend)
}

/// The URI in the form that HTTP/2 sends. What the request line names goes before the `Host` header
/// (RFC 9112 section 3.2.2).
pub(crate) fn target(request: &request::Parts) -> Result<Uri, Refusal> {
    if request.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let authority = authority(request)?;
    let path = match request.uri.path_and_query() {
        // It means the whole server, which only OPTIONS can ask (RFC 9110 section 7.1).
        Some(path) if path == "*" && request.method != Method::OPTIONS => return Err(Refusal::BadPath),
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query = Some(path);
    Uri::from_parts(target).map_err(|_| Refusal::BadPath)
}

/// The one host that a request names.
fn authority(request: &request::Parts) -> Result<Authority, Refusal> {
    let authority = match request.uri.authority() {
        // `GET shop HTTP/1.1`: a host where the path should be, as only CONNECT has it.
        Some(_) if request.uri.scheme().is_none() => return Err(Refusal::BadPath),
        // On HTTP/2 the two are one, and who says them differently means to be read in two ways
        // (RFC 9113 section 8.3.1).
        Some(authority) if request.version == Version::HTTP_2 && !agrees(&request.headers, authority) => {
            return Err(Refusal::TwoHosts);
        }
        Some(_) if request.headers.get_all(HOST).iter().nth(1).is_some() => return Err(Refusal::NoHost),
        Some(authority) => authority.clone(),
        None => host(&request.headers)?,
    };
    // Readers differ on what a name and a password in front of it mean, and a host has none.
    if authority.as_str().contains('@') { Err(Refusal::BadHost) } else { Ok(authority) }
}

/// Whether the `Host` header, if there is one, says the same as the authority.
fn agrees(headers: &HeaderMap, authority: &Authority) -> bool {
    headers
        .get_all(HOST)
        .iter()
        .all(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
}

fn host(headers: &HeaderMap) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).map_err(|_| Refusal::BadHost),
        _ => Err(Refusal::NoHost),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;
    use model::Protocol;
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::fixture::destination;

    fn without_routes() -> Destination {
        destination(Protocol::Http, &[], Duration::ZERO)
    }

    fn no_dice(_: u64) -> u64 {
        panic!("there is nothing to choose from")
    }

    /// Where a request goes: host and path.
    fn planned(method: &str, uri: &str, hosts: &[&str]) -> Result<String, Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        match plan(&without_routes(), &request.body(()).unwrap().into_parts().0, no_dice) {
            Plan::Forward(target) => {
                assert_eq!(target.scheme(), Some(&Scheme::HTTP));
                Ok(format!("{} {}", target.authority().unwrap(), target.path_and_query().unwrap()))
            }
            Plan::Route(_, to) => panic!("{to}"),
            Plan::Refuse(refusal) => Err(refusal),
        }
    }

    #[test]
    fn a_request_goes_to_its_host_or_nowhere() {
        let cases = [
            ("GET", "/a?b=c", &["shop:80"][..], Ok("shop:80 /a?b=c")),
            ("GET", "http://line/a", &["header"], Ok("line /a")),
            ("GET", "http://line", &[], Ok("line /")),
            ("OPTIONS", "*", &["shop"], Ok("shop *")),
            ("GET", "*", &["shop"], Err(Refusal::BadPath)),
            ("GET", "/", &[], Err(Refusal::NoHost)),
            ("GET", "/", &["a", "b"], Err(Refusal::NoHost)),
            ("GET", "/", &["a b"], Err(Refusal::BadHost)),
            ("GET", "/", &[""], Err(Refusal::BadHost)),
            ("GET", "/", &["a/b"], Err(Refusal::BadHost)),
            ("GET", "/", &["user@shop"], Err(Refusal::BadHost)),
            ("GET", "http://user@shop/", &["shop"], Err(Refusal::BadHost)),
            ("GET", "http://line/", &["a", "b"], Err(Refusal::NoHost)),
            ("GET", "shop", &["shop"], Err(Refusal::BadPath)),
            ("CONNECT", "shop:80", &["shop:80"], Err(Refusal::Connect)),
        ];
        for (method, uri, hosts, want) in cases {
            assert_eq!(planned(method, uri, hosts), want.map(str::to_owned), "{method} {uri} {hosts:?}");
        }
    }

    #[test]
    fn s08_on_http2_the_host_may_not_be_said_in_two_ways() {
        let planned = |hosts: &[&str]| {
            let mut request = Request::builder().version(Version::HTTP_2).uri("http://shop/a");
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let request = request.body(()).unwrap().into_parts().0;
            match plan(&without_routes(), &request, no_dice) {
                Plan::Forward(target) => Plan::Forward(target),
                Plan::Route(_, to) => panic!("{to}"),
                Plan::Refuse(refusal) => Plan::Refuse(refusal),
            }
        };
        let forward = Plan::Forward("http://shop/a".parse().unwrap());
        assert_eq!(planned(&[]), forward);
        assert_eq!(planned(&["Shop"]), forward);
        assert_eq!(planned(&["other"]), Plan::Refuse(Refusal::TwoHosts));
        assert_eq!(planned(&["shop", "other"]), Plan::Refuse(Refusal::TwoHosts));
    }

    /// Which destination gets a request: its service's name.
    fn routed(routes: &Value, method: &str, uri: &str, header: Option<&str>) -> Result<String, Refusal> {
        let part = Destination { routes: from_value(routes.clone()).unwrap(), ..without_routes() };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, "shop");
        if let Some(value) = header {
            request = request.header("X-Version", value);
        }
        match plan(&part, &request.body(()).unwrap().into_parts().0, |total| total - 1) {
            Plan::Route(target, to) => {
                assert_eq!(target.to_string(), format!("http://shop{uri}"), "it goes as it came");
                Ok(to.service.to_string())
            }
            Plan::Forward(_) => panic!("it has routes"),
            Plan::Refuse(refusal) => Err(refusal),
        }
    }

    #[test]
    fn a_request_goes_where_the_first_route_that_covers_it_leads() {
        let to = |name: &str| json!([{"destination": format!("ms_default_west__{name}_http")}]);
        let weighted = json!([
            {"destination": "ms_default_west__stable_http", "weight": 9},
            {"destination": "ms_default_west__canary_http", "weight": 1},
            {"destination": "ms_default_west__dark_http", "weight": 0},
        ]);
        let routes = json!([
            {"matches": [{"path": {"exact": "/items"}, "method": "POST"}], "backends": to("writer")},
            {"matches": [{"headers": {"x-version": "2"}}], "backends": to("next")},
            {"matches": [{"path": {"prefix": "/items"}}], "backends": weighted},
            {"matches": [{"path": {"prefix": "/gone"}}], "backends": []},
            {"matches": [{"path": {"prefix": "/"}, "method": "OPTIONS"}], "backends": to("options")},
        ]);
        let cases = [
            ("POST", "/items?all=1", None, Ok("writer")),
            ("POST", "/items;v=2", None, Ok("writer")),
            ("GET", "/%69tems/7", None, Ok("canary")),
            ("GET", "/else", Some("2"), Ok("next")),
            ("GET", "/else", Some("3"), Err(Refusal::NoRoute)),
            ("GET", "/itemsize", None, Err(Refusal::NoRoute)),
            ("GET", "/gone", None, Err(Refusal::NoBackend)),
            ("OPTIONS", "/else", None, Ok("options")),
            ("OPTIONS", "*", None, Err(Refusal::NoRoute)),
            ("OPTIONS", "*", Some("2"), Ok("next")),
            ("GET", "/items/../gone", None, Err(Refusal::AmbiguousPath)),
            ("GET", "/else//items", Some("2"), Err(Refusal::AmbiguousPath)),
        ];
        for (method, uri, header, want) in cases {
            assert_eq!(
                routed(&routes, method, uri, header),
                want.map(str::to_owned),
                "{method} {uri} {header:?}"
            );
        }
    }
}
