//! A steady load of exchanges that are told apart: each has a name, which the application that sees it remembers.
//! So of each can be said when it was under way, how it ended, and who saw it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Client, Outcome};
use crate::members::Speaks;

/// How often one caller asks; the next exchange waits for the end of the one before.
const EVERY: Duration = Duration::from_millis(50);
/// An answer that takes longer is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What every second request and every stream carries.
const BODY: usize = 4 << 10;

/// It goes on until [`Load::finish`], or until it is dropped.
pub struct Load {
    ended: Arc<Mutex<Vec<Exchange>>>,
    stop: CancellationToken,
    callers: TaskTracker,
}

/// One request and its answer, or one connection with bytes that came back.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub speaks: Speaks,
    /// Its path, or the line with which its bytes begin.
    pub name: String,
    pub begun: Instant,
    pub ended: Instant,
    /// Or why it failed; an HTTP answer that is none begins with its status.
    pub outcome: Result<(), String>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Callers {
    pub speaks: Speaks,
    /// Their own sidecar, at the port that leads to the called service.
    pub through: SocketAddr,
    /// Each asks 20 times a second over a connection of its own, or over one for each exchange where it is no HTTP.
    pub count: usize,
}

impl Load {
    /// Begins to ask; no other load may be called the same.
    pub fn start(name: &str, callers: impl IntoIterator<Item = Callers>) -> Self {
        let load =
            Self { ended: Arc::default(), stop: CancellationToken::new(), callers: TaskTracker::new() };
        for Callers { speaks, through, count } in callers {
            for number in 0..count {
                let name = format!("/{name}/{speaks:?}/{number}");
                // Spread evenly, so that something is always under way.
                let first = Instant::now() + EVERY * number as u32 / count as u32;
                let asking = ask_on(name, speaks, through, first, load.ended.clone(), load.stop.clone());
                load.callers.spawn(asking);
            }
        }
        load
    }

    /// What has ended so far, in that order.
    pub fn so_far(&self) -> Vec<Exchange> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets what is under way end, and tells of everything.
    pub async fn finish(self) -> Vec<Exchange> {
        self.stop.cancel();
        self.callers.close();
        self.callers.wait().await;
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn ask_on(
    caller: String,
    speaks: Speaks,
    through: SocketAddr,
    first: Instant,
    ended: Arc<Mutex<Vec<Exchange>>>,
    stop: CancellationToken,
) {
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut ticks = time::interval_at(first, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    for number in 0_u64.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        let name = format!("{caller}/{number}");
        let begun = Instant::now();
        let asked = time::timeout(ANSWER_LIMIT, async {
            match speaks {
                Speaks::Bytes => echo(through, &name, &body).await,
                Speaks::Http1 | Speaks::Http2 => {
                    let client = Client::kept(&mut client, speaks, through).await?;
                    let (method, body) = if number % 2 == 0 {
                        (Method::POST, body.clone())
                    } else {
                        (Method::GET, Bytes::new())
                    };
                    request(client, method, &name, body).await
                }
            }
        });
        let outcome = asked.await.unwrap_or_else(|_| bail!("no answer within {ANSWER_LIMIT:?}"));
        if outcome.is_err() {
            client = None;
        }
        let outcome = outcome.map_err(|error| format!("{error:#}"));
        let exchange = Exchange { speaks, name, begun, ended: Instant::now(), outcome };
        ended.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }
}

async fn request(client: &mut Client, method: Method, path: &str, body: Bytes) -> anyhow::Result<()> {
    let sent = body.len();
    match client.ask(method, path, body).await? {
        Outcome::Answered(answer) => {
            ensure!(answer.received == sent, "{} of {sent} bytes arrived", answer.received);
            Ok(())
        }
        Outcome::Denied { .. } => bail!("denied"),
    }
}

async fn echo(through: SocketAddr, name: &str, body: &[u8]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(through).await?;
    let sent = [name.as_bytes(), b"\n", body].concat();
    stream.write_all(&sent).await?;
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).await?;
    ensure!(back == sent, "other bytes came back");
    stream.shutdown().await?;
    ensure!(stream.read(&mut [0]).await? == 0, "more bytes came back");
    Ok(())
}
