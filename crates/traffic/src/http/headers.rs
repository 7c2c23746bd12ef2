//! Headers that end at a hop, and headers that are ours.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;

/// To the application: who calls, as its certificate proved. Whatever came under this name is removed.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("tombolo-client-id");

/// To a client that was denied: what `tombolo why` explains.
pub const DECISION_ID: HeaderName = HeaderName::from_static("tombolo-decision-id");

/// Between proxies on HTTP/1.1: no application looked at the request, which HTTP/2 says by REFUSED_STREAM.
pub(crate) const UNREACHED: HeaderName = HeaderName::from_static("tombolo-unreached");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what is meant for the next hop alone (RFC 9110 section 7.6.1). That trailers are welcome is true of
/// every hop, so that stays.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            // Who names one of these would have it taken off, and with it what it protects.
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| ![HOST, TE, CLIENT_ID, DECISION_ID].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    if headers.contains_key(TE) {
        if takes_trailers(headers) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Removes what only proxies say to each other and to applications.
pub(crate) fn strip_ours(headers: &mut HeaderMap) {
    for ours in [CLIENT_ID, DECISION_ID, UNREACHED] {
        headers.remove(ours);
    }
}

/// Removes what decides before the body: some applications take trailers for headers that came late
/// (RFC 9110 section 6.5.1).
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_ours(trailers);
    for early in
        [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]
    {
        trailers.remove(early);
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// On HTTP/1.1 that trailers are welcome is said hop by hop.
pub(crate) fn name_te(headers: &mut HeaderMap) {
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 has one header for it (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// What HTTP/2 calls the authority is the `Host` of HTTP/1.1.
pub(crate) fn set_host(headers: &mut HeaderMap, authority: &Authority) {
    // An authority consists of visible ASCII, as a header's value may.
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_meant_for_the_next_hop_ends_there() {
        let mut found = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "host, tombolo-client-id"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("host", "shop"),
            ("tombolo-client-id", "spiffe://td/a"),
            ("x-kept", "2"),
        ]);
        strip_hop_by_hop(&mut found);
        assert_eq!(
            found,
            headers(&[("host", "shop"), ("tombolo-client-id", "spiffe://td/a"), ("x-kept", "2")])
        );

        for (te, connection) in [("Trailers", "te"), ("gzip;q=0.5, trailers", "keep-alive, TE")] {
            let mut trailers = headers(&[("te", te), ("connection", connection)]);
            strip_hop_by_hop(&mut trailers);
            assert_eq!(trailers, headers(&[("te", "trailers")]));
            name_te(&mut trailers);
            assert_eq!(trailers, headers(&[("te", "trailers"), ("connection", "te")]));
        }
    }

    #[test]
    fn s17_trailers_do_not_say_what_only_headers_may() {
        let mut found = headers(&[
            ("tombolo-client-id", "spiffe://td/forged"),
            ("tombolo-decision-id", "1"),
            ("host", "other"),
            ("content-length", "7"),
            ("transfer-encoding", "chunked"),
            ("cookie", "session=2"),
            ("x-checksum", "42"),
        ]);
        strip_trailers(&mut found);
        assert_eq!(found, headers(&[("x-checksum", "42")]));
    }

    #[test]
    fn a_cookie_in_pieces_is_put_together() {
        let mut found = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("x", "y")]);
        join_cookies(&mut found);
        assert_eq!(found, headers(&[("cookie", "a=1; b=2"), ("x", "y")]));
    }
}
