//! What can be set from outside.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use control::{Addresses, Clock};
use model::ZoneName;

/// The zone control plane: turns policy and services into what the proxies of its zone run.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-zone-cp", version, after_long_help = include_str!("help.txt"))]
pub struct Options {
    /// The name of the zone
    #[arg(long, env = "TOMBOLO_ZONE")]
    pub zone: ZoneName,

    /// Where documents, keys and tokens are kept; made at the first start
    #[arg(long, env = "TOMBOLO_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// The global control plane to join; without it the zone stands alone
    #[arg(long, env = "TOMBOLO_GLOBAL", value_name = "HOST:PORT", requires = "token_file")]
    pub global: Option<String>,

    /// The token to join it with, from 'tombolo token zone'; read again at each attempt
    #[arg(long, env = "TOMBOLO_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Where the REST API is served
    #[arg(long, env = "TOMBOLO_API_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5681")]
    pub api_address: SocketAddr,

    /// Where proxies connect
    #[arg(long, env = "TOMBOLO_SYNC_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5678")]
    pub sync_address: SocketAddr,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "TOMBOLO_HEALTH_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5680")]
    pub health_address: SocketAddr,

    /// text or json
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "text")]
    pub log_format: runtime::logs::LogFormat,

    /// Such as info or zone_cp=debug,info
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info", value_parser = runtime::logs::filter)]
    pub log: String,

    /// The time of day
    #[arg(skip = Clock::system())]
    pub clock: Clock,
}

impl Options {
    /// On this machine alone, at ports of the kernel's choice; it stands alone unless told to join.
    pub fn local(zone: ZoneName, data_dir: impl Into<PathBuf>) -> Self {
        let Addresses { api, sync, health } = Addresses::any_local();
        Self {
            zone,
            data_dir: data_dir.into(),
            global: None,
            token_file: None,
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

    /// Where to join, and by what.
    pub(crate) fn joins(&self) -> Option<(String, PathBuf)> {
        self.global.clone().zip(self.token_file.clone())
    }
}
