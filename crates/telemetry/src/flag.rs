//! Why a request or connection failed: the response flags of metrics, access log and traces.

use std::fmt;

macro_rules! flags {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Why a request or connection failed, as one word that stays the same. The first reason counts.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Flag {
            $($(#[doc = $doc])* $name,)*
        }

        impl Flag {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

flags! {
    // No byte of it has left the proxy.
    /// The destination is not part of this proxy's configuration.
    DestinationUnknown = "destination-unknown",
    /// No endpoint of the destination is ready, listed and left to try.
    NoEndpoint = "no-endpoint",
    /// The destination has routes, and none covers the request.
    NoRoute = "no-route",
    /// None of the backends of the request's route is part of this proxy's configuration and has weight.
    NoBackend = "no-backend",
    /// The endpoint did not accept the connection in time: TCP, TLS and its first word.
    ConnectTimeout = "connect-timeout",
    /// The endpoint could not be reached over TCP.
    Unreachable = "unreachable",
    /// The endpoint's handle is none: a fault of the zone's.
    BadHandle = "bad-handle",
    /// The TLS handshake failed: on the calling side with the endpoint, on the called side with the peer.
    HandshakeFailed = "handshake-failed",
    /// The endpoint proved to be someone else than it should be.
    WrongIdentity = "wrong-identity",
    /// The endpoint did not agree on a protocol.
    NoProtocol = "no-protocol",
    /// The endpoint ended the connection before its first word.
    NotEstablished = "not-established",
    /// Connecting was given up, because whoever tried it was gone, or the connection closed under it.
    GivenUp = "given-up",

    // It was refused, and no application saw it.
    /// It makes no sense, or two readers could read it as two things.
    BadRequest = "bad-request",
    /// It asks for something that is not carried.
    Unsupported = "unsupported",
    /// Access policy does not allow it.
    Denied = "denied",
    /// The other proxy does not reach its application, or drains.
    Refused = "refused",
    /// The own application does not accept connections.
    ApplicationUnreachable = "application-unreachable",
    /// The own proxy drains.
    Draining = "draining",

    // It was under way, and an application may have seen it.
    /// The called side ended it before it was complete.
    UpstreamReset = "upstream-reset",
    /// The caller was gone before it was complete.
    DownstreamGone = "downstream-gone",
    /// One of both sides reset the connection; which one is not known.
    Reset = "reset",
    /// No whole answer came in time, from the last byte of the request.
    RequestTimeout = "request-timeout",
    /// Nothing of the request or its answer moved for too long.
    StreamIdleTimeout = "stream-idle-timeout",
    /// The request and its answer took too long together.
    MaxStreamDuration = "max-stream-duration",
    /// Nothing moved on an opaque connection for too long.
    IdleTimeout = "idle-timeout",
    /// The head of a request began, and did not end in time.
    RequestHeadersTimeout = "request-headers-timeout",
    /// Access policy changed and does not allow it any more, or its peer is not listed any more.
    Revoked = "revoked",

    // An ingress did not relay it; from outside all of these look alike.
    /// The opening is no whole ClientHello with a name in time.
    BadOpening = "bad-opening",
    /// The name is in no table, or was taken out of it meanwhile.
    UnknownName = "unknown-name",
    /// The ingress, or the peer's share of it, is full.
    TooMany = "too-many",
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_flag_is_one_word_of_its_own() {
        let words: BTreeSet<&str> = Flag::ALL.iter().map(|flag| flag.as_str()).collect();
        assert_eq!(words.len(), Flag::ALL.len());
        for word in words {
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{word}");
        }
        for (index, flag) in Flag::ALL.iter().enumerate() {
            assert_eq!(*flag as usize, index);
        }
    }
}
