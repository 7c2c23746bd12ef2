//! What becomes of a request of the own application: decided from the request alone, then done by `http`.

use http::header::{HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version, request};

/// What to do with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Plan {
    /// Send it to the listener's destination under this name.
    Forward(Uri),
    Refuse(Refusal),
}

/// Why a request is not sent anywhere. It is the application's mistake.
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
}

pub fn plan(request: &request::Parts) -> Plan {
    match target(request) {
        Ok(target) => Plan::Forward(target),
        Err(refusal) => Plan::Refuse(refusal),
    }
}

/// The URI in the form that HTTP/2 sends. What the request line names goes before the `Host` header
/// (RFC 9112 section 3.2.2).
fn target(request: &request::Parts) -> Result<Uri, Refusal> {
    if request.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let authority = match request.uri.authority() {
        // On HTTP/2 the two are one, and who says them differently means to be read in two ways
        // (RFC 9113 section 8.3.1).
        Some(authority) if request.version == Version::HTTP_2 && !agrees(&request.headers, authority) => {
            return Err(Refusal::TwoHosts);
        }
        Some(authority) => authority.clone(),
        None => host(&request.headers)?,
    };
    let path = match request.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query = Some(path);
    Uri::from_parts(target).map_err(|_| Refusal::BadPath)
}

/// Whether the `Host` header, if there is one, says the same as the authority.
pub(crate) fn agrees(headers: &HeaderMap, authority: &Authority) -> bool {
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
    use http::Request;

    use super::*;

    /// Where a request goes: host and path.
    fn planned(method: &str, uri: &str, hosts: &[&str]) -> Result<String, Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        match plan(&request.body(()).unwrap().into_parts().0) {
            Plan::Forward(target) => {
                assert_eq!(target.scheme(), Some(&Scheme::HTTP));
                Ok(format!("{} {}", target.authority().unwrap(), target.path_and_query().unwrap()))
            }
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
            ("GET", "/", &[], Err(Refusal::NoHost)),
            ("GET", "/", &["a", "b"], Err(Refusal::NoHost)),
            ("GET", "/", &["a b"], Err(Refusal::BadHost)),
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
            plan(&request.body(()).unwrap().into_parts().0)
        };
        let forward = Plan::Forward("http://shop/a".parse().unwrap());
        assert_eq!(planned(&[]), forward);
        assert_eq!(planned(&["Shop"]), forward);
        assert_eq!(planned(&["other"]), Plan::Refuse(Refusal::TwoHosts));
        assert_eq!(planned(&["shop", "other"]), Plan::Refuse(Refusal::TwoHosts));
    }
}
