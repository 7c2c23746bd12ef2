//! A sidecar that is a process of its own, so that it can be killed, or stand still.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use dataplane::ControlOptions;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Of `program`, called as a sidecar is called. What it logs goes to a file, which is begun anew.
    pub fn start(program: &Path, options: &ControlOptions, log: PathBuf) -> anyhow::Result<Self> {
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .arg0(dataplane::PROGRAM)
            .args(["--zone-cp", &options.zone_cp])
            .arg("--token-file")
            .arg(&options.token_file)
            .arg("--dataplane")
            .arg(&options.dataplane)
            .arg("--state-dir")
            .arg(&options.state_dir)
            .args(["--ready-address", &options.ready_address.to_string()])
            .args(["--metrics-address", &options.metrics_address.to_string()])
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

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        rustix::process::kill_process(pid.context("it has ended")?, signal).context("cannot signal a process")
    }

    /// The last line of its log, for who is to understand a failure.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").to_owned()
    }
}
