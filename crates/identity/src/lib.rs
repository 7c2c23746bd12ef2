//! Who a peer is: SPIFFE ids in certificates, zone authorities, trust bundles, tokens, rustls configurations.
