//! What crosses the wire between control planes and to proxies, as Protobuf.
