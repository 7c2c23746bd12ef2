//! How both edges hear HTTP: the same limits, whoever speaks.
//!
//! Nothing here is left to a default: what one connection may cost is written down in one place.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;

/// How many requests a peer may have open on one connection; it opens another long before.
pub(crate) const STREAMS: u32 = 1024;
/// So many streams may be reset before they were even looked at: when many clients of a peer vanish
/// together, it resets all their streams at once.
const RESET_BEFORE_ACCEPTED: usize = STREAMS as usize;
/// So many streams may force us to reset them.
const RESET_BY_US: usize = 1024;

pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What a stream holds of a body that its peer does not take.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
/// The names and values of a request's headers together, decoded. On HTTP/1.1 its request line as well.
pub(crate) const HEADER_LIST: u32 = 64 * 1024;
/// A connection that says nothing for so long is asked whether it lives, and given up as long after.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(crate) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The time of a head is kept elsewhere.
    builder.max_header_size(HEADER_LIST as usize).header_read_timeout(None);
    builder
}

pub(crate) fn http2<E>(executor: E) -> http2::Builder<E> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPTED)
        .max_local_error_reset_streams(RESET_BY_US)
        .max_header_list_size(HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}
