//! A program that is measured, or that measures: a process of its own, which does not outlive us.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time;

/// Killed when dropped.
pub struct Program {
    child: Child,
    pub pid: u32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Program {
    /// Its standard error goes to a file, to which it is added.
    pub fn start(
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = std::fs::File::options().append(true).create(true).open(log);
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file.with_context(|| format!("cannot write {}", log.display()))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}: build it, or say --programs", program.display()))?;
        let pid = child.id().context("it has ended")?;
        let input = child.stdin.take().context("it has no input")?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        Ok(Self { child, pid, input, output, log: log.to_owned() })
    }

    /// The next line that it says, such as its ready line.
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

    /// Kills it without a word (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill a process")
    }

    /// The last line of its log, for who is to understand a failure.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("it logged nothing").to_owned()
    }
}
