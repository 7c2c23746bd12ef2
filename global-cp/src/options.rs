//! What can be set from outside.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use control::{Addresses, Clock};

/// The global control plane: owns policy, joins zones.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-global-cp", version, after_long_help = include_str!("help.txt"))]
pub struct Options {
    /// Where documents, keys and tokens are kept; made at the first start
    #[arg(long, env = "TOMBOLO_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where the REST API is served
    #[arg(long, env = "TOMBOLO_API_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5681")]
    pub api_address: SocketAddr,

    /// Where zones connect
    #[arg(long, env = "TOMBOLO_SYNC_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5685")]
    pub sync_address: SocketAddr,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "TOMBOLO_HEALTH_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5680")]
    pub health_address: SocketAddr,

    /// text or json
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "text")]
    pub log_format: runtime::logs::LogFormat,

    /// Such as info or sync=debug,info
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info", value_parser = runtime::logs::filter)]
    pub log: String,

    /// The time of day
    #[arg(skip = Clock::system())]
    pub clock: Clock,
}

impl Options {
    /// On this machine alone, at ports of the kernel's choice.
    pub fn local(data_dir: impl Into<PathBuf>) -> Self {
        let Addresses { api, sync, health } = Addresses::any_local();
        Self {
            data_dir: data_dir.into(),
            api_address: api,
            sync_address: sync,
            health_address: health,
            log_format: runtime::logs::LogFormat::default(),
            log: "info".to_owned(),
            clock: Clock::system(),
        }
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { api: self.api_address, sync: self.sync_address, health: self.health_address }
    }
}
