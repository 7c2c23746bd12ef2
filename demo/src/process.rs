//! A part of the mesh that is a process of its own, so that it can be killed, or stand still.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::process::{Child, Command};

/// What a process is called, and with which flags.
pub struct Part {
    program: &'static str,
    flags: Vec<OsString>,
}

/// Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Part {
    fn new<const N: usize>(program: &'static str, flags: [(&str, OsString); N]) -> Self {
        let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]).collect();
        Self { program, flags }
    }
}

impl From<&dataplane::ControlOptions> for Part {
    fn from(options: &dataplane::ControlOptions) -> Self {
        Self::new(
            dataplane::PROGRAM,
            [
                ("--zone-cp", options.zone_cp.clone().into()),
                ("--token-file", options.token_file.clone().into()),
                ("--dataplane", options.dataplane.clone().into()),
                ("--state-dir", options.state_dir.clone().into()),
                ("--ready-address", options.ready_address.to_string().into()),
                ("--metrics-address", options.metrics_address.to_string().into()),
            ],
        )
    }
}

impl From<&zone_ingress::ControlOptions> for Part {
    fn from(options: &zone_ingress::ControlOptions) -> Self {
        let advertise = options.advertise.unwrap_or(options.listen);
        Self::new(
            zone_ingress::PROGRAM,
            [
                ("--name", options.name.to_string().into()),
                ("--zone-cp", options.zone_cp.clone().into()),
                ("--token-file", options.token_file.clone().into()),
                ("--state-dir", options.state_dir.clone().into()),
                ("--listen", options.listen.to_string().into()),
                ("--advertise", advertise.to_string().into()),
                ("--ready-address", options.ready_address.to_string().into()),
                ("--metrics-address", options.metrics_address.to_string().into()),
            ],
        )
    }
}

impl From<&global_cp::Options> for Part {
    fn from(options: &global_cp::Options) -> Self {
        Self::new(
            global_cp::PROGRAM,
            [
                ("--data-dir", options.data_dir.clone().into()),
                ("--api-address", options.api_address.to_string().into()),
                ("--sync-address", options.sync_address.to_string().into()),
                ("--health-address", options.health_address.to_string().into()),
            ],
        )
    }
}

impl From<&zone_cp::Options> for Part {
    /// Of a zone that joins a global.
    fn from(options: &zone_cp::Options) -> Self {
        Self::new(
            zone_cp::PROGRAM,
            [
                ("--zone", options.zone.to_string().into()),
                ("--data-dir", options.data_dir.clone().into()),
                ("--global", options.global.clone().unwrap_or_default().into()),
                ("--token-file", options.token_file.clone().unwrap_or_default().into()),
                ("--api-address", options.api_address.to_string().into()),
                ("--sync-address", options.sync_address.to_string().into()),
                ("--health-address", options.health_address.to_string().into()),
            ],
        )
    }
}

impl Process {
    /// Of a program that is each part of a mesh when it is called so. What it logs goes to a file, which is begun anew.
    pub fn start(program: &Path, part: impl Into<Part>, log: PathBuf) -> anyhow::Result<Self> {
        let part = part.into();
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .arg0(part.program)
            .args(part.flags)
            // What is set for this process is not meant for that one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Kills it without a word (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill a process")
    }

    /// Stops it where it is (SIGSTOP): its sockets stay open, and nobody answers.
    pub fn stand_still(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Lets no file of it grow beyond this, as if its disk were full; none lifts the limit.
    pub fn limit_files(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let limit = Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(self.pid()?), Resource::Fsize, limit)
            .context("cannot limit a process")?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        rustix::process::kill_process(self.pid()?, signal).context("cannot signal a process")
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        pid.context("it has ended")
    }

    /// The last line of its log, for who is to understand a failure.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").to_owned()
    }
}
