//! What can be set from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Parser};
use model::ResourceName;
use telemetry::AccessLog;
use traffic::relay::Limits;

use crate::control::ControlOptions;

/// The door of a zone: relays mutually authenticated traffic by SNI, and never decrypts it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-zone-ingress", version, after_long_help = include_str!("help.txt"))]
#[command(group(ArgGroup::new("source").required(true).args(["zone_cp", "static_file"])))]
pub struct Options {
    /// Relay by this file instead of asking a zone control plane
    #[arg(long = "static", env = "TOMBOLO_STATIC", value_name = "FILE")]
    pub static_file: Option<PathBuf>,

    /// The zone control plane, as HOST:PORT
    #[arg(
        long,
        env = "TOMBOLO_ZONE_CP",
        value_name = "HOST:PORT",
        conflicts_with = "static_file",
        requires_all = ["name", "token_file", "state_dir"]
    )]
    pub zone_cp: Option<String>,

    /// The name of this ingress in its zone
    #[arg(long, env = "TOMBOLO_NAME", value_name = "NAME", conflicts_with = "static_file")]
    pub name: Option<ResourceName>,

    /// A token of the zone; needed to join, and not after that
    #[arg(long, env = "TOMBOLO_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Where this ingress keeps what it needs to relay while its zone is away; secret, and its own
    #[arg(long, env = "TOMBOLO_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// Where other zones reach this ingress, if not where it listens
    #[arg(long, env = "TOMBOLO_ADVERTISE", value_name = "ADDRESS", conflicts_with = "static_file")]
    pub advertise: Option<SocketAddr>,

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

    /// Where the access log goes, one JSON object a line: off, stderr, or a file
    #[arg(long, env = "TOMBOLO_ACCESS_LOG", value_name = "WHERE", default_value = "off")]
    pub access_log: AccessLog,

    /// text or json
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "text")]
    pub log_format: runtime::logs::LogFormat,

    /// Such as info or traffic=debug,info
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info", value_parser = runtime::logs::filter)]
    pub log: String,
}

/// By what the ingress runs.
pub enum Mode<'a> {
    Static(&'a Path),
    Control(Box<ControlOptions>),
}

impl Options {
    /// None where the command line asks for neither.
    pub fn mode(&self) -> Option<Mode<'_>> {
        if let Some(file) = &self.static_file {
            return Some(Mode::Static(file));
        }
        let Self { zone_cp, name, token_file, state_dir, .. } = self;
        let control =
            ControlOptions::new(name.clone()?, zone_cp.as_ref()?, token_file.as_ref()?, state_dir.as_ref()?);
        Some(Mode::Control(Box::new(ControlOptions {
            listen: self.listen,
            advertise: self.advertise,
            limits: self.limits(),
            ready_address: self.ready_address,
            metrics_address: self.metrics_address,
            drain_time: self.drain_time(),
            access_log: self.access_log.clone(),
            ..control
        })))
    }

    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_peer: self.max_connections_per_peer,
            ..Limits::default()
        }
    }

    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_is_told_one_source_of_its_table_and_all_that_it_takes() {
        let zone =
            ["--zone-cp", "localhost:5678", "--name", "east-1", "--token-file", "t", "--state-dir", "s"];
        let parsed = |args: &[&str]| Options::try_parse_from([&["tombolo-zone-ingress"], args].concat());
        assert!(matches!(parsed(&["--static", "f"]).unwrap().mode(), Some(Mode::Static(_))));
        assert!(matches!(parsed(&zone).unwrap().mode(), Some(Mode::Control(_))));
        assert!(parsed(&[]).is_err());
        assert!(parsed(&zone[..6]).is_err(), "no state folder");
        assert!(parsed(&[&zone[..], &["--static", "f"]].concat()).is_err());
    }
}
