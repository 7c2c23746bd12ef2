//! `?watch=true`: documents as they stand, and every change from then on, one JSON object a line.
//!
//! Lines and not server-sent events: `curl | jq` reads them as they come, every language has a reader for
//! them, and a browser cannot send a token with an event source anyway.
//!
//! Without `?from=` what stands is told first, closed by a bookmark. Every transaction ends with a `resume`,
//! which as `?from=` begins after it; so does any revision that a write returned. A change is told at least
//! once, and the last word on a document is always the newest. Where the history does not reach back that far
//! `compacted` is told, and everything that stands.
//!
//! Nothing is queued for a slow reader: it reads from the store's log what it missed. Nothing polls: a
//! watch sleeps until something changes, but for a bookmark every ten seconds, by which each side knows that
//! the other is there, and this one whether the token still counts. A reader that takes nothing for half a minute
//! gives its place up to the next who asks for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use model::kinds::Kind;
use model::labels::Labels;
use model::{DocumentKey, MeshName, Record, ResourceName, Version, World};
use store::{Change, Error, Filter, Store, Watch};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::gate::StillKnown;
use crate::ownership::Chosen;
use crate::shapes::{Problem, Resume, WatchEvent};
use crate::view::{self, Viewer};

/// How many watches a control plane serves at a time.
pub const MOST_WATCHES: usize = 64;

/// Who takes nothing of what is ready for it for so long has to make room.
pub const STALLED: Duration = Duration::from_secs(30);

/// Nothing is heard for at most this long, and a token that counts no more is served for at most this long.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Where lines are put together to one write.
const PIECE: usize = 16 * 1024;

/// Which documents are watched.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: &'static Kind,
    pub(crate) mesh: Option<MeshName>,
    pub(crate) name: Option<ResourceName>,
    pub(crate) chosen: Chosen,
    pub(crate) labels: Labels,
}

impl Wanted {
    fn filter(&self) -> Filter {
        let filter = Filter::all().kinds([self.kind.key_name()]);
        match &self.mesh {
            Some(mesh) => filter.mesh(mesh.clone()),
            None => filter,
        }
    }

    fn covers_key(&self, key: &DocumentKey) -> bool {
        self.chosen.covers(key) && self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn covers_labels(&self, record: &Record) -> bool {
        self.labels.is_empty() || view::labels(record).cover(&self.labels)
    }

    /// What a change is to somebody who watches. A document that no longer has the labels is gone.
    fn event(&self, change: &Change) -> Option<Event> {
        if !self.filter().covers(change.key()) || !self.covers_key(change.key()) {
            return None;
        }
        Some(match change {
            Change::Put(record) if self.covers_labels(record) => Event::Put(record.clone()),
            gone => Event::Gone(gone.key().clone(), gone.version().clone()),
        })
    }

    fn stands(&self, record: &Record) -> bool {
        self.covers_key(&record.key) && self.covers_labels(record)
    }
}

/// Serves watches, a bounded number of them, until the process ends.
pub(crate) struct Watches {
    store: Arc<dyn Store>,
    viewer: Viewer,
    places: Places,
    stop: CancellationToken,
}

impl Watches {
    pub(crate) fn new(store: Arc<dyn Store>, viewer: Viewer, stop: CancellationToken) -> Self {
        Self { store, viewer, places: Places::default(), stop }
    }

    /// The answer begins at once; what follows comes as the reader takes it.
    pub(crate) async fn open(
        &self,
        wanted: Wanted,
        from: Option<Resume>,
        still_known: StillKnown,
    ) -> Result<Response, Problem> {
        let place = self.places.enter(Instant::now()).ok_or_else(|| {
            Problem::too_many(format!("{MOST_WATCHES} watches are open here: end one, then try again"))
        })?;
        let mut keep_alive = time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = begin(&*self.store, &wanted, from.map(|resume| resume.0)).await;
        let Begun { pending, watch, world } = begun.map_err(crate::documents::failed)?;
        let watching = Watching {
            store: self.store.clone(),
            viewer: self.viewer.clone(),
            wanted,
            pending,
            watch,
            world,
            keep_alive,
            still_known,
            stop: self.stop.clone(),
            place,
        };
        // Asked for the next piece when the reader has room for it.
        let lines = stream::unfold(watching, async |mut watching| {
            watching.place.wait_for_us();
            let piece = watching.next().await?;
            watching.place.wait_for_the_reader(Instant::now());
            Some((Ok::<_, std::convert::Infallible>(piece), watching))
        });
        let mut response = Body::from_stream(lines).into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
        Ok(response)
    }
}

/// Those that read, at most [`MOST_WATCHES`].
#[derive(Default)]
struct Places(Mutex<Vec<Weak<Place>>>);

/// Of one reader: given up when it is dropped, or when somebody else needs it.
struct Place(Mutex<Turn>);

enum Turn {
    /// Something is to be read, since then.
    Reader(Instant),
    Ours,
    GivenUp,
}

impl Places {
    /// None where all are taken by readers that read.
    fn enter(&self, now: Instant) -> Option<Arc<Place>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|place| place.upgrade().is_some_and(|place| !place.is_given_up()));
        if taken.len() >= MOST_WATCHES {
            let stalled =
                taken.iter().position(|place| place.upgrade().is_none_or(|place| place.give_up(now)));
            taken.swap_remove(stalled?);
        }
        let place = Arc::new(Place(Mutex::new(Turn::Reader(now))));
        taken.push(Arc::downgrade(&place));
        Some(place)
    }
}

impl Place {
    fn wait_for_us(&self) {
        self.pass(Turn::Ours);
    }

    fn wait_for_the_reader(&self, now: Instant) {
        self.pass(Turn::Reader(now));
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.turn(), Turn::GivenUp)
    }

    /// Whether the reader has had its time.
    fn give_up(&self, now: Instant) -> bool {
        let mut turn = self.turn();
        let is_stalled = matches!(*turn, Turn::Reader(since) if now.duration_since(since) >= STALLED);
        if is_stalled {
            *turn = Turn::GivenUp;
        }
        is_stalled
    }

    fn pass(&self, to: Turn) {
        let mut turn = self.turn();
        if !matches!(*turn, Turn::GivenUp) {
            *turn = to;
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Only plain assignments happen under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be told, not yet written.
enum Event {
    Put(Record),
    Gone(DocumentKey, Version),
    Bookmark,
    Compacted,
}

struct Begun {
    pending: VecDeque<(Event, Option<Resume>)>,
    watch: Watch,
    world: World,
}

/// What somebody who knows `from` has to be told, and the watch from there.
async fn begin(store: &dyn Store, wanted: &Wanted, from: Option<World>) -> Result<Begun, Error> {
    let Some(have) = from else { return whole(store, wanted).await };
    // Taken first: what is written in between is told twice, and not missed.
    let head = store.head().await?;
    let changes = store.since(have.clone(), wanted.filter()).await?;
    if changes.whole || !head.world.covers_all(&have) {
        let mut begun = whole(store, wanted).await?;
        begun.pending.push_front((Event::Compacted, None));
        return Ok(begun);
    }
    let deleted = changes.tombstones.into_iter().map(|(key, version)| Change::Deleted { key, version });
    let changed = deleted.chain(changes.records.into_iter().map(Change::Put));
    let mut pending: VecDeque<_> =
        changed.filter_map(|change| Some((wanted.event(&change)?, None))).collect();
    pending.push_back((Event::Bookmark, Some(Resume(changes.world.clone()))));
    Ok(Begun { pending, watch: store.watch(head.sequence), world: changes.world })
}

/// Everything that stands, exact at one place in the log.
async fn whole(store: &dyn Store, wanted: &Wanted) -> Result<Begun, Error> {
    let listing = store.list(wanted.filter()).await?;
    let standing = listing.records.into_iter().filter(|record| wanted.stands(record));
    let mut pending: VecDeque<_> = standing.map(|record| (Event::Put(record), None)).collect();
    pending.push_back((Event::Bookmark, Some(Resume(listing.world.clone()))));
    Ok(Begun { pending, watch: store.watch(listing.sequence), world: listing.world })
}

/// One reader's place.
struct Watching {
    store: Arc<dyn Store>,
    viewer: Viewer,
    wanted: Wanted,
    pending: VecDeque<(Event, Option<Resume>)>,
    watch: Watch,
    world: World,
    keep_alive: Interval,
    still_known: StillKnown,
    stop: CancellationToken,
    place: Arc<Place>,
}

impl Watching {
    /// The next lines; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.stop.is_cancelled() || !self.still_known.holds() || self.place.is_given_up() {
                return None;
            }
            let piece = self.write();
            if !piece.is_empty() {
                return Some(piece.into());
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.keep_alive.tick() => self.bookmark(),
                commit = self.watch.next() => match commit {
                    Ok(commit) => {
                        let told = commit.changes.iter().filter_map(|change| self.wanted.event(change));
                        self.pending.extend(told.map(|event| (event, None)));
                        self.world = commit.world.clone();
                        if let Some((_, resume)) = self.pending.back_mut() {
                            *resume = Some(Resume(self.world.clone()));
                        }
                    }
                    Err(Error::Compacted { .. }) => self.start_over().await?,
                    Err(error) => {
                        // The reader comes back by itself, and hears then what is wrong.
                        warn!(%error, "a watch ends");
                        return None;
                    }
                },
            }
        }
    }

    fn bookmark(&mut self) {
        self.pending.push_back((Event::Bookmark, Some(Resume(self.world.clone()))));
    }

    async fn start_over(&mut self) -> Option<()> {
        match whole(&*self.store, &self.wanted).await {
            Ok(begun) => {
                (self.pending, self.watch, self.world) = (begun.pending, begun.watch, begun.world);
                self.pending.push_front((Event::Compacted, None));
                Some(())
            }
            Err(error) => {
                warn!(%error, "a watch ends");
                None
            }
        }
    }

    fn write(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < PIECE {
            let Some((event, resume)) = self.pending.pop_front() else { break };
            let event = match event {
                Event::Put(record) => WatchEvent::Put { document: self.viewer.show(&record), resume },
                Event::Gone(key, version) => WatchEvent::Gone { document: view::gone(&key, version), resume },
                Event::Bookmark => WatchEvent::Bookmark { resume: resume.unwrap_or_default() },
                Event::Compacted => WatchEvent::Compacted,
            };
            match serde_json::to_writer(&mut lines, &event) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => error!(%error, "cannot write an event"),
            }
        }
        lines
    }
}
