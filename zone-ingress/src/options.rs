//! What can be set from outside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// The door of a zone: relays mutually authenticated traffic by SNI, and never decrypts it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-zone-ingress", version)]
pub struct Options {
    /// Relay by this file instead of asking a zone control plane
    #[arg(long = "static", env = "TOMBOLO_STATIC", value_name = "FILE")]
    pub static_file: Option<PathBuf>,

    /// Where other zones connect
    #[arg(long, env = "TOMBOLO_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:10001")]
    pub listen: SocketAddr,

    /// Where /healthz and /readyz are served
    #[arg(long, env = "TOMBOLO_READY_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:9902")]
    pub ready_address: SocketAddr,

    /// Where /metrics is served
    #[arg(long, env = "TOMBOLO_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5670")]
    pub metrics_address: SocketAddr,

    /// Connections that are relayed at most
    #[arg(long, env = "TOMBOLO_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 65_536)]
    pub max_connections: usize,

    /// Connections of one address that are relayed at most
    #[arg(long, env = "TOMBOLO_MAX_CONNECTIONS_PER_PEER", value_name = "NUMBER", default_value_t = 16_384)]
    pub max_connections_per_peer: usize,

    /// Seconds that open connections get to finish when the ingress is asked to stop
    #[arg(long, env = "TOMBOLO_DRAIN_TIME", value_name = "SECONDS", default_value_t = 30)]
    pub drain_time: u64,

    /// text or json
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "text")]
    pub log_format: runtime::logs::LogFormat,

    /// Such as info or traffic=debug,info
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info")]
    pub log: String,
}

impl Options {
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time)
    }
}
