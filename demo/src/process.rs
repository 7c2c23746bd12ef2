//! A program that is a process of its own, such as a part of the mesh, so that it can be killed, stand still, or be
//! measured.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time;

/// What a part of the mesh is called, and with which flags.
pub struct Part {
    program: &'static str,
    flags: Vec<OsString>,
}

/// Killed when dropped.
pub struct Process {
    child: Child,
    pub pid: u32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
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
    /// A part of the mesh, by a program that is each of them when it is called so.
    pub fn start(program: &Path, part: impl Into<Part>, log: PathBuf) -> anyhow::Result<Self> {
        let part = part.into();
        // What is set for this process is not meant for that one.
        Self::spawn(Command::new(program).arg0(part.program).args(part.flags).env_clear(), log)
    }

    /// Any program. What it says on its standard error is added to a file.
    pub fn spawn(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = std::fs::File::options().append(true).create(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        let child = command.spawn();
        let program = command.as_std().get_program().display();
        let mut child = child.with_context(|| format!("cannot start {program}: is it built?"))?;
        let pid = child.id().context("it has ended")?;
        let input = child.stdin.take().context("it has no input")?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        Ok(Self { child, pid, input, output, log })
    }

    /// The next line that it says to programs, such as its ready line.
    pub async fn line<T: DeserializeOwned>(&mut self, limit: Duration) -> anyhow::Result<T> {
        let line = self.text(limit).await?;
        serde_json::from_str(&line).with_context(|| format!("it says {line}"))
    }

    /// The same of one that speaks to people.
    pub async fn text(&mut self, limit: Duration) -> anyhow::Result<String> {
        let line = time::timeout(limit, self.output.next_line()).await;
        let line =
            line.with_context(|| format!("it says nothing for {limit:?}: {}", self.last_words()))??;
        line.with_context(|| format!("it ended: {}", self.last_words()))
    }

    pub async fn tell(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.input.write_all(&line).await.context("it does not listen")
    }

    /// Asks it to end (SIGTERM), as an init system does, and waits until it has.
    pub async fn end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let ended = time::timeout(limit, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it does not end within {limit:?}: {}", self.last_words()))??)
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
        rustix::process::prlimit(Some(self.running()?), Resource::Fsize, limit)
            .context("cannot limit a process")?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        rustix::process::kill_process(self.running()?, signal).context("cannot signal a process")
    }

    fn running(&self) -> anyhow::Result<Pid> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        pid.context("it has ended")
    }

    /// The last line of its log, for who is to understand a failure.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("it logged nothing").to_owned()
    }
}
