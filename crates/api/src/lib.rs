//! REST over a store: documents in, problems out.
