//! How sessions end, and questions that got no answer.

use std::time::Duration;

use crate::frame::Malformed;
use crate::topic::Topic;

/// Why a question got no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("there is no session with the peer")]
    Disconnected,
    #[error("the peer did not answer in time")]
    TimedOut,
    #[error("too many questions wait for an answer")]
    Busy,
    #[error("the question is too large")]
    TooLarge,
    #[error("{0}")]
    Refused(String),
}

/// Why a session is over.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Ended {
    #[error("closed: {0}")]
    ByUs(String),
    #[error("closed by the peer: {0}")]
    ByPeer(String),
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("nothing was heard of the peer for {0:?}")]
    Silent(Duration),
    #[error("the connection broke: {0}")]
    Lost(String),
}

/// What no peer of ours does.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    #[error("it did not introduce itself first")]
    NoHello,
    #[error("a frame is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("a batch of {0} was sent before the one before it was acknowledged")]
    Unbidden(Topic),
    #[error("a batch of {0} is too large")]
    Staged(Topic),
    #[error("more of {0} was sent than there was credit for")]
    Credit(Topic),
    #[error("chunks of {0} keep missing")]
    Gaps(Topic),
    #[error("{0} is opened again and again")]
    Openings(Topic),
    #[error("too many subscriptions")]
    Subscriptions,
    #[error("too large signals")]
    Signals,
    #[error("too many questions at once")]
    Questions,
}
