//! Why an ingress ended a connection without a byte. From outside all of them look the same.

use std::io;
use std::time::Duration;

use telemetry::Flag;

use crate::metrics::{Count, Metrics};
use crate::opening::OpeningError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("too many connections")]
    OverLimit,
    #[error(transparent)]
    Opening(#[from] OpeningError),
    #[error("unknown name")]
    UnknownName,
    #[error("the name was taken away")]
    TakenAway,
    #[error("the endpoint did not answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the endpoint cannot be reached")]
    Unreachable(#[source] io::Error),
}

impl Refusal {
    pub(crate) fn count(&self, metrics: &Metrics) {
        metrics.relay_refusals.add();
        self.counter(metrics).add();
    }

    pub(crate) fn flag(&self) -> Flag {
        match self {
            Self::OverLimit => Flag::TooMany,
            Self::Opening(_) => Flag::BadOpening,
            Self::UnknownName | Self::TakenAway => Flag::UnknownName,
            Self::NoAnswer(_) => Flag::ConnectTimeout,
            Self::Unreachable(_) => Flag::Unreachable,
        }
    }

    fn counter<'a>(&self, metrics: &'a Metrics) -> &'a Count {
        match self {
            Self::OverLimit => &metrics.relay_over_limit,
            Self::Opening(error) => match error {
                OpeningError::TooSlow(_) => &metrics.relay_slow_openings,
                OpeningError::TooLarge => &metrics.relay_large_openings,
                OpeningError::NotTls(_) => &metrics.relay_not_tls,
                OpeningError::NoName => &metrics.relay_nameless,
                OpeningError::Ended | OpeningError::Broken(_) => &metrics.relay_ended_openings,
            },
            Self::UnknownName | Self::TakenAway => &metrics.relay_unknown_names,
            Self::NoAnswer(_) | Self::Unreachable(_) => &metrics.relay_unreachable,
        }
    }
}
