//! Two hosts over a pipe of frames, on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use sync::Topic;
use sync::frame::{Frame, Hello};
use sync::link::{self, Handle, Options, Transport};
use sync::session::{AskError, Ended};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{self, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::host::{TestHost, options, proxy, signal, zone};

const SECOND: Duration = Duration::from_secs(1);

struct Pair {
    zone: Arc<TestHost>,
    proxy: Arc<TestHost>,
    stop: CancellationToken,
    running: [JoinHandle<Ended>; 2],
}

async fn connect(zone: Arc<TestHost>, proxy: Arc<TestHost>) -> Pair {
    connect_as(zone, proxy, options()).await
}

async fn connect_as(zone: Arc<TestHost>, proxy: Arc<TestHost>, proxy_options: Options) -> Pair {
    let (up, from_below) = mpsc::channel(1);
    let (down, from_above) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let run = |host: Arc<TestHost>, options: Options, outgoing, incoming| {
        let stop = stop.clone();
        tokio::spawn(async move {
            let incoming = link::frames(incoming).map(Ok);
            let transport = Transport { incoming, outgoing };
            let handle = host.handle.clone();
            link::run(host, &handle, transport, &options, 1, &stop).await
        })
    };
    let running =
        [run(zone.clone(), options(), down, from_below), run(proxy.clone(), proxy_options, up, from_above)];
    Pair { zone, proxy, stop, running }
}

async fn pair() -> Pair {
    let pair = connect(zone(&Handle::new()), proxy(&Handle::new())).await;
    pair.zone.handle.connected().await;
    pair.proxy.handle.connected().await;
    pair
}

#[tokio::test(start_paused = true)]
async fn both_sides_copy_what_the_other_owns() {
    let Pair { zone, proxy, .. } = pair().await;
    zone.put("trust", "1");
    zone.put("listeners", "1");
    proxy.put("dataplane", "web-1");
    proxy.until("the parts are there", |state| state.copy.len() == 2).await;
    zone.until("the document is there", |state| state.copy.contains_key("dataplane")).await;
    zone.remove("listeners");
    zone.put("trust", "2");
    proxy.until("the change is there", |state| state.copy.len() == 1 && state.copy["trust"] == "2").await;
    let have = proxy.now().have.clone();
    zone.until("it is acknowledged", |state| state.acknowledged == have).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_told_and_the_rest_is_applied() {
    let Pair { zone, proxy, .. } = pair().await;
    zone.put("trust", "1");
    proxy.until("the first version is there", |state| state.copy.contains_key("trust")).await;
    zone.put("trust", "bad");
    zone.put("listeners", "1");
    proxy.until("the rest is there", |state| state.copy.contains_key("listeners")).await;
    assert_eq!(proxy.now().copy["trust"], "1", "the last accepted version stays");
    let state = zone.until("the refusal is known", |state| !state.refusals.is_empty()).await;
    assert_eq!((state.refusals[0].key.as_str(), state.refusals[0].reason.as_str()), ("trust", "bad"));
}

#[tokio::test(start_paused = true)]
async fn slow_storing_stops_neither_heartbeats_nor_questions_nor_signals() {
    let Pair { zone, proxy, .. } = pair().await;
    let slow = zone.storing.acquire().await.unwrap();
    proxy.put("dataplane", "web-1");
    let before = zone.now().heartbeats;
    zone.until("a minute of heartbeats", |state| state.heartbeats >= before + 60).await;
    let answer = proxy.handle.ask("echo", "hello", SECOND).await;
    assert_eq!(answer, Ok(Bytes::from("hello")));
    proxy.handle.subscribe(["endpoints/a"]);
    zone.handle.signal("endpoints/a", signal("1"));
    proxy.until("the signal is there", |state| state.signals.contains_key("endpoints/a")).await;
    assert!(zone.now().copy.is_empty() && !zone.now().stale);
    drop(slow);
    zone.until("it is stored", |state| state.copy.contains_key("dataplane")).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_yet_is_stored_later_and_holds_up_nothing_else_nor_the_end() {
    let Pair { zone, proxy, stop, running } = pair().await;
    zone.not_yet(3);
    let before = zone.now().tries;
    proxy.put("dataplane", "web-1");
    zone.put("trust", "1");
    proxy.until("the parts are there", |state| state.copy.contains_key("trust")).await;
    let start = Instant::now();
    zone.until("it is stored", |state| state.copy.contains_key("dataplane")).await;
    assert_eq!(zone.now().tries - before, 4);
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());

    zone.not_yet(u32::MAX);
    proxy.put("dataplane", "web-2");
    zone.until("it is tried", |state| state.tries > before + 4).await;
    let start = Instant::now();
    stop.cancel();
    for ended in running {
        ended.await.unwrap();
    }
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_question_that_panics_or_never_ends_is_answered_all_the_same() {
    let Pair { proxy, .. } = pair().await;
    let minute = 60 * SECOND;
    let refused = |why: &str| Err(AskError::Refused(why.to_owned()));
    assert_eq!(proxy.handle.ask("panic", "", minute).await, refused("failed inside"));
    assert_eq!(proxy.handle.ask("never", "", minute).await, refused("took too long"));
    assert_eq!(proxy.handle.ask("never", "", SECOND).await, Err(AskError::TimedOut));
    assert_eq!(proxy.handle.ask("dance", "", minute).await, refused("what is 'dance'?"));
    assert_eq!(proxy.handle.ask("echo", "on", minute).await, Ok(Bytes::from("on")));
}

#[tokio::test(start_paused = true)]
async fn a_question_ends_with_the_session() {
    let Pair { proxy, stop, .. } = pair().await;
    let asking = tokio::spawn({
        let handle = proxy.handle.clone();
        async move { handle.ask("never", "", 60 * SECOND).await }
    });
    tokio::task::yield_now().await;
    stop.cancel();
    assert_eq!(asking.await.unwrap(), Err(AskError::Disconnected));
    proxy.handle.disconnected().await;
    assert_eq!(proxy.handle.ask("echo", "", SECOND).await, Err(AskError::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_is_closed_before_its_first_session_ends_that_one_and_no_later_one() {
    let (above, below) = (zone(&Handle::new()), proxy(&Handle::new()));
    above.handle.close("revoked");
    above.handle.changed(&Topic::PARTS);
    let [ended, told] = connect(above.clone(), below.clone()).await.running;
    assert_eq!(ended.await.unwrap(), Ended::ByUs("revoked".into()));
    assert_eq!(told.await.unwrap(), Ended::ByPeer("revoked".into()));

    above.handle.close("nobody is there");
    let _pair = connect(above.clone(), below).await;
    time::timeout(SECOND, above.handle.connected()).await.unwrap();
    let ended = time::timeout(5 * SECOND, above.handle.disconnected()).await;
    assert!(ended.is_err(), "a session that never was is not ended");
}

#[tokio::test(start_paused = true)]
async fn a_signal_is_settled_when_its_latest_value_is_in_force() {
    let Pair { zone, proxy, .. } = pair().await;
    zone.handle.signal("endpoints/a", signal("1"));
    zone.handle.settled().await;
    assert!(proxy.now().signals.is_empty(), "nobody wants it, so there is nothing to wait for");
    proxy.handle.subscribe(["endpoints/a"]);
    proxy.until("the first value is there", |state| !state.signals.is_empty()).await;
    let slow = proxy.storing.acquire().await.unwrap();
    for value in ["2", "3", "4"] {
        zone.handle.signal("endpoints/a", signal(value));
    }
    let early = time::timeout(SECOND, zone.handle.settled()).await;
    assert!(early.is_err(), "it is not in force yet");
    drop(slow);
    zone.handle.settled().await;
    assert_eq!(proxy.now().signals["endpoints/a"].value, "4");
}

#[tokio::test(start_paused = true)]
async fn a_signal_is_settled_when_those_whom_the_peer_told_have_it_in_force_or_three_seconds_later() {
    let Pair { zone, proxy, .. } = pair().await;
    proxy.handle.subscribe(["endpoints/a"]);
    let further = proxy.further.acquire().await.unwrap();
    let start = Instant::now();
    zone.handle.signal("endpoints/a", signal("1"));
    proxy.until("the value is there", |state| !state.signals.is_empty()).await;
    let early = time::timeout(SECOND, zone.handle.settled()).await;
    assert!(early.is_err(), "it is not in force further on");
    zone.handle.signal("endpoints/a", signal("2"));
    let is_second = |state: &crate::host::State| state.signals["endpoints/a"].value == "2";
    proxy.until("the next value is there", is_second).await;
    assert!(start.elapsed() < 2 * SECOND, "it did not wait for that");
    zone.handle.settled().await;
    assert!(start.elapsed() >= 3 * SECOND && start.elapsed() <= 7 * SECOND, "{:?}", start.elapsed());
    drop(further);
    zone.handle.signal("endpoints/a", signal("3"));
    let start = Instant::now();
    zone.handle.settled().await;
    assert!(start.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_echo_of_a_peer_that_is_gone_or_not_heard() {
    let Pair { zone, proxy, stop, .. } = pair().await;
    proxy.handle.subscribe(["endpoints/a"]);
    proxy.until("it begins", |state| state.heartbeats > 0).await;
    let _slow = proxy.storing.acquire().await.unwrap();
    zone.handle.signal("endpoints/a", signal("1"));
    let gone = async {
        time::sleep(SECOND).await;
        stop.cancel();
    };
    let start = Instant::now();
    tokio::join!(zone.handle.settled(), gone);
    assert!(start.elapsed() <= 3 * SECOND, "{:?}", start.elapsed());
    zone.handle.disconnected().await;
    zone.handle.signal("endpoints/a", signal("2"));
    zone.handle.settled().await;

    let silent = connect_to_silence(zone.clone()).await;
    let start = Instant::now();
    zone.handle.signal("endpoints/a", signal("3"));
    zone.handle.settled().await;
    assert!(start.elapsed() <= 6 * SECOND, "{:?}", start.elapsed());
    assert!(zone.handle.peer().is_some(), "it is still there, but not heard");
    drop(silent);
}

/// A peer that wants a signal and then says nothing any more.
async fn connect_to_silence(zone: Arc<TestHost>) -> (mpsc::Sender<Frame>, mpsc::Receiver<Vec<Frame>>) {
    let (up, from_below) = mpsc::channel(4);
    let (down, from_above) = mpsc::channel(1000);
    let handle = zone.handle.clone();
    let running = zone.clone();
    tokio::spawn(async move {
        let incoming = ReceiverStream::new(from_below).map(Ok);
        let transport = Transport { incoming, outgoing: down };
        link::run(running, &handle, transport, &options(), 1, &CancellationToken::new()).await
    });
    up.send(Frame::Hello(Hello { program: "1.2.3".into(), ..Hello::default() })).await.unwrap();
    let added = vec!["endpoints/a".to_owned()];
    up.send(Frame::Subscribe { added, removed: Vec::new() }).await.unwrap();
    zone.handle.connected().await;
    zone.until("it is subscribed", |state| !state.wanted.is_empty()).await;
    (up, from_above)
}

#[tokio::test(start_paused = true)]
async fn wishes_and_signals_outlive_a_session_and_only_what_is_new_is_sent_again() {
    let Pair { zone, proxy, stop, .. } = pair().await;
    proxy.handle.subscribe(["endpoints/a", "endpoints/b"]);
    zone.handle.signal("endpoints/a", signal("1"));
    zone.put("trust", "1");
    proxy.until("all is there", |state| state.copy.len() == 1 && state.signals.len() == 1).await;
    stop.cancel();
    proxy.handle.disconnected().await;
    zone.handle.disconnected().await;

    proxy.handle.unsubscribe(["endpoints/b"]);
    zone.handle.signal("endpoints/a", signal("2"));
    zone.put("listeners", "1");
    let next = connect(zone.clone(), proxy.clone()).await;
    let state = next.proxy.until("the new is there", |state| state.copy.len() == 2).await;
    assert_eq!(state.copy["trust"], "1");
    drop(state);
    next.proxy
        .until("the signal is there", |state| {
            state.signals.get("endpoints/a").is_some_and(|signal| signal.value == "2")
        })
        .await;
    assert_eq!(Vec::from_iter(next.zone.now().wanted.iter().cloned()), ["endpoints/a"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_stored_when_the_session_ends_is_stored_to_its_end() {
    let Pair { zone, proxy, stop, running } = pair().await;
    let slow = zone.storing.acquire().await.unwrap();
    proxy.put("dataplane", "web-1");
    time::sleep(SECOND).await;
    stop.cancel();
    time::sleep(SECOND).await;
    assert!(!running[0].is_finished(), "it waits for the host");
    drop(slow);
    let [zone_end, _] = running;
    zone_end.await.unwrap();
    assert!(zone.now().copy.contains_key("dataplane"));
    assert_eq!(zone.now().ended.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_go_on_ends_the_session_without_telling_its_secrets() {
    let Pair { zone, running, .. } = pair().await;
    zone.fail();
    let [zone_end, proxy_end] = running;
    assert_eq!(zone_end.await.unwrap(), Ended::ByUs("could not collect".to_owned()));
    assert_eq!(proxy_end.await.unwrap(), Ended::ByPeer("could not collect".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_wanted_is_told_why() {
    let old = Options { program: "0.9.0".to_owned(), ..options() };
    let Pair { zone, running, .. } = connect_as(zone(&Handle::new()), proxy(&Handle::new()), old).await;
    let [_, proxy_end] = running;
    assert_eq!(proxy_end.await.unwrap(), Ended::ByPeer("too old".to_owned()));
    assert!(zone.handle.peer().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_on_which_nothing_comes_is_stale_and_then_over() {
    let (outgoing, mut written) = mpsc::channel(64);
    let (peer, incoming) = mpsc::channel(1);
    let host = zone(&Handle::new());
    let start = Instant::now();
    let running = tokio::spawn({
        let host = host.clone();
        async move {
            let transport = Transport { incoming: ReceiverStream::new(incoming).map(Ok), outgoing };
            let handle = host.handle.clone();
            link::run(host, &handle, transport, &options(), 1, &CancellationToken::new()).await
        }
    });
    peer.send(Frame::Hello(Hello::default())).await.unwrap();
    host.until("the peer is stale", |state| state.stale).await;
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert_eq!(host.handle.last_heard(), Some(5 * SECOND));
    assert_eq!(running.await.unwrap(), Ended::Silent(30 * SECOND));
    assert_eq!(start.elapsed(), 30 * SECOND);
    let mut heartbeats = 0;
    while let Some(frames) = written.recv().await {
        heartbeats += frames.iter().filter(|frame| matches!(frame, Frame::Heartbeat(_))).count();
    }
    assert_eq!(heartbeats, 29);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_makes_nothing_pile_up() {
    let (outgoing, mut written) = mpsc::channel(1);
    let (peer, incoming) = mpsc::channel(1);
    let host = zone(&Handle::new());
    tokio::spawn({
        let host = host.clone();
        async move {
            let transport = Transport { incoming: ReceiverStream::new(incoming).map(Ok), outgoing };
            let handle = host.handle.clone();
            link::run(host, &handle, transport, &options(), 1, &CancellationToken::new()).await
        }
    });
    peer.send(Frame::Hello(Hello::default())).await.unwrap();
    let added = vec!["endpoints/a".to_owned()];
    peer.send(Frame::Subscribe { added, removed: Vec::new() }).await.unwrap();
    host.until("it is wanted", |state| !state.wanted.is_empty()).await;
    for n in 0..10 {
        host.handle.signal("endpoints/a", signal(&n.to_string()));
        peer.send(Frame::Heartbeat(Default::default())).await.unwrap();
        time::sleep(2 * SECOND).await;
    }
    let mut frames = Vec::new();
    while let Ok(Some(written)) = time::timeout(SECOND / 2, written.recv()).await {
        frames.extend(written);
    }
    let signals: Vec<_> = frames
        .iter()
        .filter_map(|frame| if let Frame::Signal { signal, .. } = frame { Some(&signal.value) } else { None })
        .collect();
    assert_eq!(signals, ["9"], "of all values only the latest");
    assert!(frames.len() <= 5, "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn one_handle_serves_one_session_at_a_time() {
    let Pair { zone, .. } = pair().await;
    let other = zone.clone();
    let (outgoing, _written) = mpsc::channel(1);
    let transport = Transport { incoming: futures::stream::pending(), outgoing };
    let handle = other.handle.clone();
    let ended = link::run(other, &handle, transport, &options(), 2, &CancellationToken::new()).await;
    assert!(matches!(ended, Ended::ByUs(_)));
    zone.put("trust", "1");
    zone.handle.changed(&Topic::PARTS);
    assert!(zone.handle.peer().is_some(), "the first one goes on");
}
