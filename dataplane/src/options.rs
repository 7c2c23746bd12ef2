//! What can be set from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Parser};
use telemetry::{AccessLog, Settings, Tracing};

use crate::control::ControlOptions;

/// The sidecar: carries an application's traffic in and out under mutual TLS.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-dataplane", version, after_long_help = include_str!("help.txt"))]
#[command(group(ArgGroup::new("source").required(true).args(["zone_cp", "static_file"])))]
pub struct Options {
    /// Serve by this file instead of asking a zone control plane
    #[arg(long = "static", env = "TOMBOLO_STATIC", value_name = "FILE")]
    pub static_file: Option<PathBuf>,

    /// The zone control plane, as HOST:PORT
    #[arg(
        long,
        env = "TOMBOLO_ZONE_CP",
        value_name = "HOST:PORT",
        conflicts_with = "static_file",
        requires_all = ["token_file", "dataplane", "state_dir"]
    )]
    pub zone_cp: Option<String>,

    /// A token of the zone; needed to join, and not after that
    #[arg(long, env = "TOMBOLO_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The Dataplane document of this proxy
    #[arg(long, env = "TOMBOLO_DATAPLANE", value_name = "FILE")]
    pub dataplane: Option<PathBuf>,

    /// Where this proxy keeps what it needs to serve while its zone is away; secret, and its own
    #[arg(long, env = "TOMBOLO_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// Where /healthz and /readyz are served
    #[arg(long, env = "TOMBOLO_READY_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:9902")]
    pub ready_address: SocketAddr,

    /// Where /metrics is served
    #[arg(long, env = "TOMBOLO_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:5670")]
    pub metrics_address: SocketAddr,

    /// Threads that carry traffic
    #[arg(long, env = "TOMBOLO_WORKERS", default_value_t = 1)]
    pub workers: usize,

    /// Seconds that open requests and connections get to finish when the proxy is asked to stop. The last quarter
    /// is for those of the own application
    #[arg(long, env = "TOMBOLO_DRAIN_TIME", value_name = "SECONDS", default_value_t = 30)]
    pub drain_time: u64,

    /// Where the access log goes, one JSON object a line: off, stderr, or a file
    #[arg(long, env = "TOMBOLO_ACCESS_LOG", value_name = "WHERE", default_value = "off")]
    pub access_log: AccessLog,

    /// Where traces go: a collector that speaks OTLP over gRPC, such as http://127.0.0.1:4317
    #[arg(long, env = "TOMBOLO_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// How many of the traces that begin here are recorded, in percent
    #[arg(long, env = "TOMBOLO_TRACE_SAMPLING", value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub trace_sampling: f64,

    /// text or json
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "text")]
    pub log_format: runtime::logs::LogFormat,

    /// Such as info or traffic=debug,info
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info", value_parser = runtime::logs::filter)]
    pub log: String,
}

/// By what the sidecar runs.
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
        let Self { zone_cp, token_file, dataplane, state_dir, .. } = self;
        let control = ControlOptions::new(
            zone_cp.as_ref()?,
            token_file.as_ref()?,
            dataplane.as_ref()?,
            state_dir.as_ref()?,
        );
        Some(Mode::Control(Box::new(ControlOptions {
            ready_address: self.ready_address,
            metrics_address: self.metrics_address,
            workers: self.workers,
            drain_time: self.drain_time(),
            telemetry: self.telemetry(),
            ..control
        })))
    }

    pub fn telemetry(&self) -> Settings {
        let tracing = self.otlp_endpoint.clone();
        let tracing = tracing.map(|endpoint| Tracing { endpoint, sampling: self.trace_sampling / 100.0 });
        Settings { access_log: self.access_log.clone(), tracing }
    }

    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time)
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("use a number from 0 to 100".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_is_told_one_source_of_its_configuration_and_all_that_it_takes() {
        let zone =
            ["--zone-cp", "localhost:5678", "--token-file", "t", "--dataplane", "d", "--state-dir", "s"];
        let parsed = |args: &[&str]| Options::try_parse_from([&["tombolo-dataplane"], args].concat());
        assert!(matches!(parsed(&["--static", "f"]).unwrap().mode(), Some(Mode::Static(_))));
        assert!(matches!(parsed(&zone).unwrap().mode(), Some(Mode::Control(_))));
        assert!(parsed(&[]).is_err());
        assert!(parsed(&zone[..6]).is_err(), "no state folder");
        assert!(parsed(&[&zone[..], &["--static", "f"]].concat()).is_err());
    }

    #[test]
    fn nothing_is_told_but_metrics_unless_it_is_asked_for() {
        let parsed = |args: &[&str]| {
            let args = [&["tombolo-dataplane", "--static", "f"], args].concat();
            Options::try_parse_from(args).map(|options| options.telemetry())
        };
        assert_eq!(parsed(&[]).unwrap(), Settings::default());
        let all = ["--access-log", "/a", "--otlp-endpoint", "http://c:4317", "--trace-sampling", "2.5"];
        let tracing = Tracing { endpoint: "http://c:4317".into(), sampling: 0.025 };
        let want = Settings { access_log: AccessLog::File("/a".into()), tracing: Some(tracing) };
        assert_eq!(parsed(&all).unwrap(), want);
        for wrong in ["-1", "101", "NaN", "all"] {
            assert!(parsed(&[&format!("--trace-sampling={wrong}")]).is_err(), "{wrong}");
        }
    }
}
