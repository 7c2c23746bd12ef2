//! What a worker counts of itself. Whoever wants the numbers sums the workers.
//!
//! On a metrics page each is `tombolo_proxy_<name>_total`; what is told of each request and connection, and of
//! who called whom, is in `telemetry::metrics`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use telemetry::series::Plain;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// The counters of one worker.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(pub(crate) $name: Count,)*
        }

        /// The values of all counters at one moment; sums of workers are sums of these.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Metrics {
            pub fn read(&self) -> Counters {
                Counters { $($name: self.$name.0.get(),)* }
            }
        }

        impl Counters {
            /// Name and value of each counter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        /// Name, as on a metrics page but for its end, and meaning of each.
        const FAMILIES: &[(&str, &str)] =
            &[$((concat!("tombolo_proxy_", stringify!($name)), concat!("", $($doc,)*)),)*];

        impl std::ops::Add for Counters {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

counters! {
    /// Connections accepted from the own application.
    outbound_connections,
    /// Requests of the own application that were answered by the other side.
    outbound_requests,
    /// Requests and connections of the own application that could not be delivered.
    outbound_failures,
    /// Requests of the own application that make no sense, such as one without a host.
    outbound_rejected,
    /// Connections to other proxies that were established.
    connects,
    /// Connections to other proxies that failed before they were established.
    connect_failures,
    /// Those of them where the peer was not who it should be.
    wrong_identities,
    ejections,
    /// Connections accepted from other proxies.
    inbound_connections,
    /// Those of them that did not complete a handshake.
    handshake_failures,
    /// Requests that were let through to the own application.
    inbound_requests,
    /// Requests and connections that were denied.
    denials,
    /// Requests and connections that only observation, or a shadow denial, let through.
    observed_denials,
    /// Open connections and requests that were ended because policy no longer allows them.
    revocations,
    /// Requests and connections that were allowed, and found no application.
    application_failures,
    /// Connections that an ingress relayed.
    relayed,
    /// Connections that an ingress ended without a byte: the sum of those by cause below.
    relay_refusals,
    /// More than the limit of the peer, or of all together.
    relay_over_limit,
    /// No whole ClientHello in time.
    relay_slow_openings,
    /// A ClientHello larger than any of ours.
    relay_large_openings,
    relay_not_tls,
    /// A ClientHello without a name.
    relay_nameless,
    /// The connection ended or broke before its ClientHello was whole.
    relay_ended_openings,
    /// A name that leads nowhere, or was taken away meanwhile.
    relay_unknown_names,
    /// The endpoint of the name could not be reached.
    relay_unreachable,
}

/// The sum over workers, for a metrics page.
#[derive(Clone, Debug)]
pub struct Totals(pub Vec<Arc<Metrics>>);

impl Totals {
    pub fn read(&self) -> Counters {
        self.0.iter().fold(Counters::default(), |sum, worker| sum + worker.read())
    }
}

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for ((name, help), (_, value)) in FAMILIES.iter().zip(self.read().iter()) {
            let mut metric = encoder.encode_descriptor(name, help.trim(), None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

/// Counts up, on one thread.
#[derive(Debug, Default)]
pub(crate) struct Count(Plain);

impl Count {
    pub(crate) fn add(&self) {
        self.0.add(1);
    }
}
