//! Owns the running ingress in control mode: puts tables in force, and keeps the last.

use std::future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use joining::Drain;
use runtime::{Readiness, ReadyGuard};
use snapshot::parts::Handles;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use traffic::Counters;

use super::kept::KeptTable;
use crate::ingress::{Ingress, Stopped};

/// What the engine is told and asked.
pub(crate) enum Command {
    /// The zone's word about the table; in force when it is answered.
    Handles(Bytes, oneshot::Sender<()>),
    /// The zone cannot be reached.
    Unreachable,
    Counters(oneshot::Sender<Counters>),
}

/// How long the zone has to say something before the table that was kept is used.
const HEAD_START: Duration = Duration::from_millis(300);
/// The least time between two writes of the table.
const PACE: Duration = Duration::from_secs(1);

pub(crate) struct Engine {
    ingress: Ingress,
    kept: KeptTable,
    /// What was kept, until it is used or overtaken, and when it is to be used.
    found: Option<(Handles, Instant)>,
    /// What is to be kept.
    unsaved: Option<Handles>,
    saved: Option<Instant>,
    /// Until there is a word.
    starting: Option<ReadyGuard>,
}

impl Engine {
    pub(crate) fn new(
        ingress: Ingress,
        kept: KeptTable,
        found: Option<Handles>,
        readiness: &Readiness,
    ) -> Self {
        Self {
            ingress,
            kept,
            found: found.map(|handles| (handles, Instant::now() + HEAD_START)),
            unsaved: None,
            saved: None,
            starting: Some(readiness.guard("handles")),
        }
    }

    /// Runs until `stop`. While the ingress drains, its flows are judged by what the zone says.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        drain: Drain,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let drained = self.ingress.drain(drain.grace);
        let draining = drain.follow(drained);
        {
            let mut draining = pin!(draining);
            let mut is_drained = false;
            loop {
                let resumes = self.found.as_ref().map(|(_, at)| *at);
                let saves =
                    self.unsaved.as_ref().map(|_| self.saved.map_or_else(Instant::now, |at| at + PACE));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = &mut draining, if !is_drained => is_drained = true,
                    command = commands.recv() => match command {
                        Some(command) => self.take(command).await?,
                        None => {
                            stop.cancelled().await;
                            break;
                        }
                    },
                    () = at(resumes) => self.resume("the zone has not spoken yet").await?,
                    () = at(saves) => self.save().await,
                }
            }
        }
        self.ingress.end().await;
        Ok(())
    }

    async fn take(&mut self, command: Command) -> Result<(), Stopped> {
        // Whoever asked may not wait for the answer any more: sending it may fail.
        match command {
            Command::Handles(word, reply) => {
                self.hear(&word).await?;
                let _ = reply.send(());
            }
            Command::Unreachable => self.resume("the zone cannot be reached").await?,
            Command::Counters(reply) => drop(reply.send(self.ingress.counters().await?)),
        }
        Ok(())
    }

    /// No word, and one that cannot be read, takes nothing away.
    async fn hear(&mut self, word: &[u8]) -> Result<(), Stopped> {
        if word.is_empty() {
            self.resume("the zone knows nothing yet").await?;
            self.starting = None;
            return Ok(());
        }
        match serde_json::from_slice::<Handles>(word) {
            Ok(handles) => {
                self.found = None;
                self.ingress.handles(handles.clone()).await?;
                self.unsaved = Some(handles);
                self.starting = None;
            }
            Err(error) => warn!(%error, "a table that cannot be read"),
        }
        Ok(())
    }

    async fn resume(&mut self, why: &'static str) -> Result<(), Stopped> {
        if let Some((handles, _)) = self.found.take() {
            info!(why, "relaying by the table that was kept");
            self.ingress.handles(handles).await?;
            self.starting = None;
        }
        Ok(())
    }

    async fn save(&mut self) {
        self.saved = Some(Instant::now());
        if let Some(handles) = self.unsaved.take()
            && let Err(error) = self.kept.save(handles).await
        {
            warn!(%error, "the table cannot be kept");
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => future::pending().await,
    }
}
