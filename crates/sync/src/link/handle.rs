//! What the rest of a program says to a session: never waits, never queues more than the latest word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{self, Instant};

use crate::frame::{Hello, Signal};
use crate::session::{AskError, Event, MAX_QUESTIONS, Session};
use crate::topic::Topic;

/// One's own end of a link. Subscriptions and published signals outlive a session: the next session on the
/// same handle begins with them. A handle serves one session at a time.
#[derive(Clone, Default)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    wake: Notify,
    /// The peer's introduction, while there is a session.
    peer: watch::Sender<Option<Arc<Hello>>>,
}

/// What waits for the session. Without a session nothing but the lasting wishes is kept.
#[derive(Default)]
struct Desk {
    attached: bool,
    /// There is one session only: what it was told needs to be known to nobody else.
    once: bool,
    /// There was a session. What closes a handle before its first one holds for that one.
    used: bool,
    last_heard: Option<Instant>,
    wanted: BTreeSet<String>,
    published: BTreeMap<Arc<str>, (Arc<Signal>, Instant)>,
    changed: BTreeSet<Topic>,
    reopen: BTreeSet<Topic>,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
    fresh: BTreeSet<Arc<str>>,
    retracted: BTreeSet<String>,
    asks: VecDeque<Ask>,
    settling: Vec<oneshot::Sender<()>>,
    /// Something was published that the peer has not settled, as far as is known here.
    unsettled: bool,
    close: Option<String>,
}

pub(super) struct Ask {
    pub(super) kind: String,
    pub(super) body: Bytes,
    pub(super) timeout: Duration,
    pub(super) reply: oneshot::Sender<Result<Bytes, AskError>>,
}

impl Handle {
    pub fn new() -> Self {
        Self::default()
    }

    /// For one session alone, which takes what is published off it.
    pub fn once() -> Self {
        let handle = Self::default();
        handle.desk().once = true;
        handle
    }

    /// There may be more to send of a topic that this side owns.
    pub fn changed(&self, topic: &Topic) {
        self.tell(|desk| {
            desk.changed.insert(topic.clone());
        });
    }

    /// Starts a topic anew of which this side keeps a copy, such as after a hold was lifted.
    pub fn reopen(&self, topic: &Topic) {
        self.tell(|desk| {
            desk.reopen.insert(topic.clone());
        });
    }

    /// Wants these parts and signals, until further notice.
    pub fn subscribe(&self, names: impl IntoIterator<Item = impl Into<String>>) {
        self.tell(|desk| {
            for name in names.into_iter().map(Into::into) {
                if desk.wanted.insert(name.clone()) {
                    desk.added.insert(name);
                }
            }
        });
    }

    pub fn unsubscribe<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        self.tell(|desk| {
            for name in names {
                if desk.wanted.remove(name) && !desk.added.remove(name) {
                    desk.removed.insert(name.to_owned());
                }
            }
        });
    }

    /// Publishes the latest value of a signal; who subscribes to it gets it, now or later.
    pub fn signal(&self, name: impl Into<Arc<str>>, signal: impl Into<Arc<Signal>>) {
        let (name, signal) = (name.into(), signal.into());
        self.tell(|desk| {
            desk.retracted.remove(&*name);
            desk.unsettled = true;
            desk.fresh.insert(name.clone());
            desk.published.insert(name, (signal, Instant::now()));
        });
    }

    /// Forgets a signal. The peer is not told: no word is not "gone".
    pub fn retract(&self, name: &str) {
        self.tell(|desk| {
            desk.fresh.remove(name);
            if desk.published.remove(name).is_some() || desk.once {
                desk.retracted.insert(name.to_owned());
            }
        });
    }

    /// Waits until the peer has in force what was published up to now, and so have those whom it told of it. At
    /// once where there is no session, or the peer is not heard.
    pub async fn settled(&self) {
        let settled = {
            let mut desk = self.desk();
            if !desk.unsettled {
                return;
            }
            let (done, settled) = oneshot::channel();
            desk.settling.push(done);
            settled
        };
        self.shared.wake.notify_one();
        // Dropped with the session, which settles it too.
        let _ = settled.await;
    }

    /// Asks the peer. Ends after `timeout` at the latest.
    pub async fn ask(
        &self,
        kind: impl Into<String>,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, AskError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { kind: kind.into(), body: body.into(), timeout, reply };
        self.tell(|desk| {
            if desk.attached && desk.asks.len() < MAX_QUESTIONS {
                desk.asks.push_back(ask);
            } else if desk.attached {
                let _ = ask.reply.send(Err(AskError::Busy));
            }
        });
        match time::timeout(timeout, answer).await {
            Ok(answer) => answer.unwrap_or(Err(AskError::Disconnected)),
            Err(_) => Err(AskError::TimedOut),
        }
    }

    /// Ends the session, if there is one. A client dials again. On a handle that never had a session it ends the
    /// first one as it begins: whoever turns a peer away that is just coming in must not be missed.
    pub fn close(&self, reason: impl Into<String>) {
        self.tell(|desk| desk.close = Some(reason.into()));
    }

    /// How long ago the peer was last heard, in this session or an earlier one.
    pub fn last_heard(&self) -> Option<Duration> {
        self.desk().last_heard.map(|at| at.elapsed())
    }

    /// The introduction of the peer, while there is a session with it.
    pub fn peer(&self) -> Option<Arc<Hello>> {
        self.shared.peer.borrow().clone()
    }

    /// Waits until there is a session and the peer has introduced itself.
    pub async fn connected(&self) -> Arc<Hello> {
        let mut peer = self.shared.peer.subscribe();
        let hello = peer.wait_for(Option::is_some).await.expect("this handle keeps the sender");
        hello.clone().expect("the one that was waited for")
    }

    /// Waits until there is no session.
    pub async fn disconnected(&self) {
        let mut peer = self.shared.peer.subscribe();
        let _ = peer.wait_for(Option::is_none).await;
    }

    /// Waits until there is something on the desk.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.shared.wake.notified()
    }

    fn tell(&self, say: impl FnOnce(&mut Desk)) {
        let mut desk = self.desk();
        say(&mut desk);
        if !desk.attached {
            desk.forget();
        }
        drop(desk);
        self.shared.wake.notify_one();
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing can panic between two states of the desk that fit together.
        self.shared.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session's side of the desk.
pub(super) struct Attached {
    handle: Handle,
    /// Who waits, and for what of the session.
    settling: Vec<(u64, oneshot::Sender<()>)>,
    /// Those who came with what the session is being told.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Attached {
    /// None while another session uses the handle.
    pub(super) fn attach(handle: &Handle) -> Option<Self> {
        let mut desk = handle.desk();
        if mem::replace(&mut desk.attached, true) {
            return None;
        }
        desk.forget();
        desk.used = true;
        desk.added = desk.wanted.clone();
        desk.fresh = desk.published.keys().cloned().collect();
        desk.unsettled = true;
        drop(desk);
        Some(Self { handle: handle.clone(), settling: Vec::new(), waiting: Vec::new() })
    }

    pub(super) fn greeted(&self, hello: Hello) {
        self.handle.shared.peer.send_replace(Some(Arc::new(hello)));
    }

    pub(super) fn heard(&self) {
        self.handle.desk().last_heard = Some(Instant::now());
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes everything that waits off the desk.
    pub(super) fn clear(&mut self) -> (Vec<Event>, VecDeque<Ask>) {
        let mut desk = self.handle.desk();
        let mut events = Vec::new();
        let removed = mem::take(&mut desk.removed);
        if !removed.is_empty() {
            events.push(Event::Unsubscribe(removed.into_iter().collect()));
        }
        let added = mem::take(&mut desk.added);
        if !added.is_empty() {
            events.push(Event::Subscribe(added.into_iter().collect()));
        }
        events.extend(mem::take(&mut desk.retracted).into_iter().map(Event::Retract));
        for name in mem::take(&mut desk.fresh) {
            let published = match desk.once {
                true => desk.published.remove(&name),
                false => desk.published.get(&name).cloned(),
            };
            if let Some((signal, at)) = published {
                events.push(Event::Publish { name, signal, ago: at.elapsed() });
            }
        }
        events.extend(mem::take(&mut desk.reopen).into_iter().map(Event::Reopen));
        events.extend(mem::take(&mut desk.changed).into_iter().map(Event::Changed));
        events.extend(desk.close.take().map(Event::Close));
        self.waiting.append(&mut desk.settling);
        (events, mem::take(&mut desk.asks))
    }

    /// Tells those whose signals are settled now, and forgets those who wait no more. The session has been told all
    /// that was on the desk.
    pub(super) fn settle(&mut self, session: &Session) {
        let mark = session.mark();
        self.settling.extend(self.waiting.drain(..).map(|waiter| (mark, waiter)));
        for (_, waiter) in
            self.settling.extract_if(.., |(mark, waiter)| session.has_settled(*mark) || waiter.is_closed())
        {
            let _ = waiter.send(());
        }
        let mut desk = self.handle.desk();
        desk.unsettled = !desk.fresh.is_empty() || !session.has_settled(mark);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut desk = self.handle.desk();
        desk.attached = false;
        desk.forget();
        drop(desk);
        self.handle.shared.peer.send_replace(None);
    }
}

impl Desk {
    /// Drops what was meant for one session; dropped questions are answered by that.
    fn forget(&mut self) {
        let lasting = Desk {
            attached: self.attached,
            once: self.once,
            used: self.used,
            close: self.close.take().filter(|_| !self.used),
            last_heard: self.last_heard,
            wanted: mem::take(&mut self.wanted),
            published: mem::take(&mut self.published),
            ..Desk::default()
        };
        *self = lasting;
    }
}
