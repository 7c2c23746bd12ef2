//! What a session says to single events, without a link.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Origin, Point, World};
use sync::frame::{CHUNK, Chunk, Frame, Heartbeat, Hello, Last, Signal};
use sync::session::{Action, Applied, AskError, Config, Ended, Event, Limits, Session, Timing, Violation};
use sync::{Base, Batch, Entry, Place, Refused, Topic};

const START: Duration = Duration::ZERO;
const WINDOW: u64 = 256 << 10;

fn session() -> Session {
    session_serving(vec![Topic::PARTS])
}

fn session_serving(serves: Vec<Topic>) -> Session {
    let config = Config {
        hello: Hello::default(),
        serves,
        copies: vec![Topic::PROXY],
        limits: Limits {
            staged_bytes: 1 << 20,
            window: WINDOW,
            under_way: 1 << 16,
            subscriptions: 10,
            chunk: CHUNK,
        },
        timing: Timing::default(),
    };
    let mut session = Session::new(config, START);
    assert_eq!(session.on_event(Event::Started, START), [Action::Locate { topic: Topic::PROXY }]);
    assert!(matches!(session.next_frame(START), Some(Frame::Hello(_))));
    session
}

/// A session that has heard its peer's introduction and opened its topic.
fn greeted() -> Session {
    serving(vec![Topic::PARTS])
}

fn serving(topics: Vec<Topic>) -> Session {
    let mut session = session_serving(topics);
    receive(&mut session, Frame::Hello(Hello::default()));
    session.on_event(Event::Located { topic: Topic::PROXY, place: Place::default() }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Open { opening: 1, .. })));
    session
}

fn receive(session: &mut Session, frame: Frame) -> Vec<Action> {
    session.on_event(Event::Received(frame), START)
}

fn violation(actions: &[Action]) -> Option<&Violation> {
    actions.iter().find_map(|action| match action {
        Action::Ended(Ended::Violation(violation)) => Some(violation),
        _ => None,
    })
}

fn world(revision: u64) -> World {
    World::from_iter([(Origin::Global, Point { epoch: 1, revision })])
}

fn entry(key: &str, bytes: usize) -> Entry {
    Entry::part(key, vec![b'x'; bytes])
}

fn chunk(batch: u64, index: u32, entries: Vec<Entry>, last: Option<Last>) -> Frame {
    let removed = Vec::new();
    Frame::Chunk(Chunk { topic: Topic::PROXY, opening: 1, batch, index, entries, removed, last })
}

fn last(revision: u64) -> Option<Last> {
    Some(Last { world: world(revision), ..Last::default() })
}

fn open(opening: u64) -> Frame {
    Frame::Open { topic: Topic::PARTS, opening, place: Place::default(), window: WINDOW }
}

fn collected(session: &mut Session, batch: Option<Batch>) -> Vec<Action> {
    session.on_event(Event::Collected { topic: Topic::PARTS, batch }, START)
}

#[test]
fn a_batch_is_cut_into_chunks_and_a_large_entry_travels_alone() {
    let mut session = greeted();
    receive(&mut session, open(1));
    let entries = vec![
        entry("a", 30_000),
        entry("b", 30_000),
        entry("c", 30_000),
        entry("large", 100_000),
        entry("d", 10),
    ];
    let removed = vec!["gone".to_owned()];
    collected(&mut session, Some(Batch { entries, removed, world: world(1), ..Batch::default() }));
    let mut chunks = Vec::new();
    while let Some(Frame::Chunk(chunk)) = session.next_frame(START) {
        chunks.push(chunk);
    }
    let keys: Vec<Vec<_>> =
        chunks.iter().map(|chunk| chunk.entries.iter().map(|entry| entry.key.as_str()).collect()).collect();
    assert_eq!(keys, [vec!["a", "b"], vec!["c"], vec!["large"], vec!["d"]]);
    for (i, chunk) in chunks.iter().enumerate() {
        let bytes: usize = chunk.entries.iter().map(|entry| entry.body.len()).sum();
        assert!(bytes <= CHUNK || chunk.entries.len() == 1);
        assert_eq!((chunk.index as usize, chunk.last.is_some()), (i, i == 3));
    }
    assert_eq!(chunks[3].removed, ["gone"]);
}

#[test]
fn what_a_peer_refuses_of_what_it_already_had_is_told() {
    let mut session = greeted();
    let topic = Topic::PARTS;
    let reopened = |session: &mut Session, opening, refused: &[Refused]| {
        let place = Place { have: world(7), ..Place::default() };
        receive(session, Frame::Open { topic: topic.clone(), opening, place, window: WINDOW });
        assert_eq!(collected(session, None), [], "nothing is new");
        assert!(matches!(session.next_frame(START), Some(Frame::Chunk(_))));
        let refused = refused.to_vec();
        receive(session, Frame::Ack { topic: topic.clone(), opening, batch: 1, world: world(7), refused })
    };
    let taken = Refused::new("inbound/8080", None, "address in use");
    let told = |refused: &[Refused]| {
        [Action::Acknowledged { topic: topic.clone(), world: world(7), refused: refused.to_vec() }]
    };
    assert_eq!(reopened(&mut session, 1, std::slice::from_ref(&taken)), told(std::slice::from_ref(&taken)));
    assert_eq!(reopened(&mut session, 2, &[]), told(&[]), "and that it is refused no more");
}

/// What the session writes of its topic now: the number of chunks, and whether the last is among them.
fn chunks(session: &mut Session) -> (usize, bool) {
    let mut chunks = Vec::new();
    while let Some(Frame::Chunk(chunk)) = session.next_frame(START) {
        chunks.push(chunk);
    }
    (chunks.len(), chunks.iter().any(|chunk| chunk.last.is_some()))
}

#[test]
fn no_more_of_a_batch_is_sent_than_there_is_credit_for_and_all_else_goes_on() {
    let mut session = greeted();
    receive(&mut session, open(1));
    let entries = (0..40).map(|n| entry(&format!("{n:02}"), 60_000)).collect();
    collected(&mut session, Some(Batch { entries, world: world(1), ..Batch::default() }));
    assert_eq!(chunks(&mut session), (5, false), "the last one begins within the window");
    assert!(!session.wants_to_write());
    for _ in 0..1000 {
        assert_eq!(session.on_event(Event::Changed(Topic::PARTS), START), [], "one batch is held, no more");
    }
    let added = vec!["endpoints/a".to_owned()];
    receive(&mut session, Frame::Subscribe { added, removed: Vec::new() });
    let signal = Signal { origin: Origin::Global, age: START, value: Bytes::from_static(b"1") };
    let (name, signal, ago) = ("endpoints/a".into(), Arc::new(signal), Duration::ZERO);
    session.on_event(Event::Publish { name, signal, ago }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Signal { .. })));
    let query = Frame::Query { id: 1, kind: String::new(), body: Bytes::new() };
    receive(&mut session, query);
    session.on_event(Event::Answer { id: 1, result: Ok(Bytes::new()) }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Reply { .. })));

    let credit = |opening, batch, bytes| Frame::Credit { topic: Topic::PARTS, opening, batch, bytes };
    for (why, credit, sent) in [
        ("of another opening", credit(2, 1, u64::MAX), (0, false)),
        ("of another batch", credit(1, 2, u64::MAX), (0, false)),
        ("less than before", credit(1, 1, 1), (0, false)),
        ("three more", credit(1, 1, WINDOW + 3 * 60_162), (3, false)),
        ("a repeat", credit(1, 1, WINDOW + 3 * 60_162), (0, false)),
        ("all the rest", credit(1, 1, u64::MAX), (32, true)),
    ] {
        receive(&mut session, credit);
        assert_eq!(chunks(&mut session), sent, "{why}");
    }
    // The next batch begins with a window again.
    let ack = Frame::Ack { topic: Topic::PARTS, opening: 1, batch: 1, world: world(1), refused: Vec::new() };
    receive(&mut session, ack);
    let entries = (0..40).map(|n| entry(&format!("{n:02}"), 60_000)).collect();
    collected(&mut session, Some(Batch { entries, world: world(2), ..Batch::default() }));
    assert_eq!(chunks(&mut session), (5, false));
}

#[test]
fn a_topic_without_credit_stalls_alone() {
    let topics = [Topic::PARTS, Topic::POLICY];
    let mut session = serving(topics.to_vec());
    for topic in &topics {
        let window = if *topic == Topic::PARTS { 0 } else { WINDOW };
        let place = Place::default();
        receive(&mut session, Frame::Open { topic: topic.clone(), opening: 1, place, window });
        let batch = Batch { entries: vec![entry("a", 10)], world: world(1), ..Batch::default() };
        session.on_event(Event::Collected { topic: topic.clone(), batch: Some(batch) }, START);
    }
    let Some(Frame::Chunk(chunk)) = session.next_frame(START) else { panic!("a chunk") };
    assert_eq!(chunk.topic, Topic::POLICY);
    assert_eq!(session.next_frame(START), None);
    let credit = Frame::Credit { topic: Topic::PARTS, opening: 1, batch: 1, bytes: 1 };
    receive(&mut session, credit);
    assert!(matches!(session.next_frame(START), Some(Frame::Chunk(_))));
}

#[test]
fn credit_is_given_when_half_of_it_is_used_and_never_for_a_small_batch() {
    let mut session = greeted();
    let staged = 60_000 + 1 + 160;
    for index in 0..2 {
        assert_eq!(receive(&mut session, chunk(1, index, vec![entry("a", 60_000)], None)), []);
        assert_eq!(session.next_frame(START), None, "less than half is used");
    }
    receive(&mut session, chunk(1, 2, vec![entry("a", 60_000)], None));
    let bytes = 3 * staged + WINDOW;
    let credit = Frame::Credit { topic: Topic::PROXY, opening: 1, batch: 1, bytes };
    assert_eq!(session.next_frame(START), Some(credit));
    // What is not written when the batch is whole is not needed any more.
    for index in 3..6 {
        receive(&mut session, chunk(1, index, vec![entry("a", 60_000)], None));
    }
    receive(&mut session, chunk(1, 6, Vec::new(), last(1)));
    assert_eq!(session.next_frame(START), None);
}

#[test]
fn the_next_batch_is_made_only_after_the_last_was_acknowledged() {
    let mut session = greeted();
    let base = Base::Opened(Place::default());
    assert_eq!(receive(&mut session, open(1)), [Action::Collect { topic: Topic::PARTS, base }]);
    assert_eq!(session.on_event(Event::Changed(Topic::PARTS), START), []);
    assert_eq!(collected(&mut session, Some(Batch { world: world(1), ..Batch::default() })), []);
    assert!(matches!(session.next_frame(START), Some(Frame::Chunk(_))));
    let ack = Frame::Ack { topic: Topic::PARTS, opening: 1, batch: 1, world: world(1), refused: Vec::new() };
    let base = Base::Acknowledged(world(1));
    assert_eq!(
        receive(&mut session, ack.clone()),
        [
            Action::Acknowledged { topic: Topic::PARTS, world: world(1), refused: Vec::new() },
            Action::Collect { topic: Topic::PARTS, base }
        ]
    );
    assert_eq!(receive(&mut session, ack), [], "a repeat");
}

#[test]
fn a_copy_that_is_equal_is_told_that_it_is_complete() {
    let mut session = greeted();
    let place = Place { have: world(7), ..Place::default() };
    receive(&mut session, Frame::Open { topic: Topic::PARTS, opening: 1, place, window: WINDOW });
    collected(&mut session, None);
    let Some(Frame::Chunk(chunk)) = session.next_frame(START) else { panic!("an empty batch") };
    assert_eq!((chunk.entries.len(), chunk.last.map(|last| last.world)), (0, Some(world(7))));
    let ack = Frame::Ack { topic: Topic::PARTS, opening: 1, batch: 1, world: world(7), refused: Vec::new() };
    let told = Action::Acknowledged { topic: Topic::PARTS, world: world(7), refused: Vec::new() };
    assert_eq!(receive(&mut session, ack), [told], "though the host made nothing");
    let base = Base::Acknowledged(world(7));
    let collect = Action::Collect { topic: Topic::PARTS, base };
    assert_eq!(session.on_event(Event::Changed(Topic::PARTS), START), [collect]);
}

#[test]
fn an_entry_that_is_too_large_to_travel_is_reported_and_delays_no_other() {
    let mut session = greeted();
    receive(&mut session, open(1));
    let entries = vec![entry("huge", (2 << 20) + 1), entry("fine", 1)];
    collected(&mut session, Some(Batch { entries, world: world(1), ..Batch::default() }));
    let Some(Frame::Chunk(chunk)) = session.next_frame(START) else { panic!("a chunk") };
    assert_eq!(chunk.entries.len(), 1);
    let ack = Frame::Ack { topic: Topic::PARTS, opening: 1, batch: 1, world: world(1), refused: Vec::new() };
    let actions = receive(&mut session, ack);
    let Some(Action::Acknowledged { refused, .. }) = actions.first() else { panic!("acknowledged") };
    assert_eq!(refused[0].key, "huge");
}

#[test]
fn a_missing_chunk_opens_the_topic_anew_and_the_old_opening_is_void() {
    let mut session = greeted();
    assert_eq!(receive(&mut session, chunk(1, 0, vec![entry("a", 1)], None)), []);
    let actions = receive(&mut session, chunk(1, 2, Vec::new(), last(1)));
    assert_eq!(actions, [Action::Locate { topic: Topic::PROXY }]);
    session.on_event(Event::Located { topic: Topic::PROXY, place: Place::default() }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Open { opening: 2, .. })));
    assert_eq!(receive(&mut session, chunk(1, 1, Vec::new(), last(1))), []);
}

#[test]
fn an_acknowledgement_is_written_only_after_the_host_has_stored() {
    let mut session = greeted();
    let actions = receive(&mut session, chunk(1, 0, vec![entry("a", 1)], last(1)));
    assert!(matches!(actions.as_slice(), [Action::Apply { batch, .. }] if batch.world == world(1)));
    assert_eq!(session.next_frame(START), None);
    let applied = Applied::Stored { world: world(1), refused: Vec::new() };
    session.on_event(Event::Applied { topic: Topic::PROXY, applied }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Ack { batch: 1, .. })));
}

#[test]
fn a_held_topic_takes_nothing_until_it_is_opened_anew() {
    let mut session = greeted();
    receive(&mut session, chunk(1, 0, Vec::new(), last(1)));
    let applied = Applied::Held { reason: "diverged".to_owned() };
    session.on_event(Event::Applied { topic: Topic::PROXY, applied }, START);
    assert!(matches!(session.next_frame(START), Some(Frame::Hold { opening: 1, .. })));
    assert_eq!(receive(&mut session, chunk(2, 0, Vec::new(), last(2))), []);
    let reopened = session.on_event(Event::Reopen(Topic::PROXY), START);
    assert_eq!(reopened, [Action::Locate { topic: Topic::PROXY }]);
}

#[test]
fn what_we_want_is_said_before_we_open_anything() {
    let mut session = session();
    session.on_event(Event::Located { topic: Topic::PROXY, place: Place::default() }, START);
    session.on_event(Event::Subscribe(vec!["endpoints/a".to_owned()]), START);
    assert!(matches!(session.next_frame(START), Some(Frame::Subscribe { .. })));
    assert!(matches!(session.next_frame(START), Some(Frame::Open { .. })));
}

#[test]
fn only_the_latest_value_of_a_subscribed_signal_is_sent_and_its_age_grows() {
    let mut session = greeted();
    let publish = |value: &'static str| Event::Publish {
        name: "endpoints/a".into(),
        signal: Arc::new(Signal {
            origin: Origin::Global,
            age: Duration::from_secs(1),
            value: Bytes::from_static(value.as_bytes()),
        }),
        ago: Duration::ZERO,
    };
    session.on_event(publish("0"), START);
    assert_eq!(session.next_frame(START), None, "nobody wants it");
    let added = vec!["endpoints/a".to_owned()];
    receive(&mut session, Frame::Subscribe { added: added.clone(), removed: Vec::new() });
    session.on_event(publish("1"), START);
    session.on_event(publish("2"), START);
    let mark = session.mark();
    assert!(!session.has_settled(mark));
    let frame = session.next_frame(Duration::from_millis(500));
    let Some(Frame::Signal { sequence, signal, .. }) = frame else { panic!("a signal") };
    assert_eq!((sequence, signal.value.as_ref(), signal.age), (1, &b"2"[..], Duration::from_millis(1500)));
    assert_eq!(session.next_frame(START), None);
    assert!(!session.has_settled(mark));
    receive(&mut session, Frame::SignalEcho { sequence });
    assert!(session.has_settled(mark));
    receive(&mut session, Frame::Subscribe { added: added.clone(), removed: added });
    assert!(matches!(session.next_frame(START), Some(Frame::Signal { .. })), "wanted anew, so sent anew");
}

#[test]
fn what_overtook_a_value_settles_it_and_what_nobody_wants_any_more_is_not_waited_for() {
    let mut session = greeted();
    let [a, b] = ["endpoints/a", "endpoints/b"].map(str::to_owned);
    receive(&mut session, Frame::Subscribe { added: vec![a.clone(), b.clone()], removed: Vec::new() });
    let value = Bytes::from_static(b"1");
    let signal = Arc::new(Signal { origin: Origin::Global, age: Duration::ZERO, value });
    let publish = |name: &String| Event::Publish {
        name: name.as_str().into(),
        signal: signal.clone(),
        ago: Duration::ZERO,
    };
    session.on_event(publish(&a), START);
    let mark = session.mark();
    session.next_frame(START).expect("a signal");
    // Changes go on, and do not keep the drain waiting that began before them.
    session.on_event(publish(&a), START);
    session.next_frame(START).expect("a signal");
    receive(&mut session, Frame::SignalEcho { sequence: mark });
    assert!(session.has_settled(mark) && !session.has_settled(session.mark()));
    let sequence = session.mark();
    receive(&mut session, Frame::SignalEcho { sequence });

    session.on_event(publish(&b), START);
    assert!(!session.has_settled(session.mark()));
    receive(&mut session, Frame::Subscribe { added: Vec::new(), removed: vec![b] });
    assert_eq!(session.next_frame(START), None);
    assert!(session.has_settled(session.mark()));
    receive(&mut session, Frame::SignalEcho { sequence: u64::MAX });
    session.on_event(publish(&a), START);
    assert!(!session.has_settled(session.mark()), "nobody can echo what was not sent");
}

#[test]
fn signals_are_echoed_when_they_are_in_force_further_on_and_new_ones_do_not_wait_for_that() {
    let mut session = greeted();
    let [a, b] = ["endpoints/a", "endpoints/b"].map(str::to_owned);
    session.on_event(Event::Subscribe(vec![a.clone(), b.clone()]), START);
    session.next_frame(START).expect("the subscription");
    let signal = || Signal { origin: Origin::Global, age: Duration::ZERO, value: Bytes::from_static(b"1") };
    let comes = |session: &mut Session, name: &String, sequence| {
        receive(session, Frame::Signal { name: name.clone(), sequence, signal: signal() })
    };
    let applies = |name: &String| Action::ApplySignals { signals: [(name.clone(), signal())].into() };
    assert_eq!(comes(&mut session, &a, 1), [applies(&a)]);
    assert_eq!(comes(&mut session, &b, 2), []);
    let actions = session.on_event(Event::SignalsApplied, START);
    assert_eq!(actions, [applies(&b), Action::SettleSignals]);
    assert_eq!(session.on_event(Event::SignalsApplied, START), []);
    assert_eq!(session.next_frame(START), None);
    assert_eq!(session.on_event(Event::SignalsSettled, START), [Action::SettleSignals]);
    assert_eq!(session.next_frame(START), Some(Frame::SignalEcho { sequence: 1 }));
    assert_eq!(session.on_event(Event::SignalsSettled, START), []);
    assert_eq!(session.next_frame(START), Some(Frame::SignalEcho { sequence: 2 }));

    // A name that is not wanted any more is echoed all the same: its sender cannot know.
    session.on_event(Event::Unsubscribe(vec![a.clone()]), START);
    session.next_frame(START).expect("the subscription");
    assert_eq!(comes(&mut session, &a, 3), [Action::SettleSignals]);
    session.on_event(Event::SignalsSettled, START);
    assert_eq!(session.next_frame(START), Some(Frame::SignalEcho { sequence: 3 }));
}

#[test]
fn heartbeats_go_every_second_with_what_is_complete_and_how_old_it_is() {
    let mut session = greeted();
    receive(&mut session, open(1));
    collected(&mut session, Some(Batch { world: world(1), ..Batch::default() }));
    session.next_frame(START);
    let ack = Frame::Ack { topic: Topic::PARTS, opening: 1, batch: 1, world: world(1), refused: Vec::new() };
    receive(&mut session, ack);
    session.on_event(Event::Ages(vec![(Origin::Global, Duration::from_secs(3))]), START);
    let second = Duration::from_secs(1);
    assert_eq!(session.next_wakeup(), second);
    session.on_event(Event::Tick, second);
    let Some(Frame::Heartbeat(Heartbeat { complete, ages })) = session.next_frame(second) else {
        panic!("a heartbeat")
    };
    assert_eq!(complete, [(Topic::PARTS, world(1))]);
    assert_eq!(ages, [(Origin::Global, Duration::from_secs(4))]);
    assert_eq!(session.next_frame(second), None);
    assert_eq!(session.next_wakeup(), second * 2);
}

#[test]
fn a_silent_peer_is_stale_after_5_s_and_given_up_after_30_s() {
    let mut session = greeted();
    let mut told = Vec::new();
    for second in 1..=4 {
        told.extend(session.on_event(Event::Tick, Duration::from_secs(second)));
    }
    assert_eq!(told, []);
    assert_eq!(session.on_event(Event::Tick, Duration::from_secs(5)), [Action::Stale]);
    let heard = Event::Received(Frame::Heartbeat(Heartbeat::default()));
    assert_eq!(session.on_event(heard, Duration::from_secs(6))[0], Action::Fresh);
    let mut told = Vec::new();
    for second in 7..=35 {
        told.extend(session.on_event(Event::Tick, Duration::from_secs(second)));
    }
    assert_eq!(told, [Action::Stale]);
    let silence = Duration::from_secs(30);
    assert_eq!(
        session.on_event(Event::Tick, Duration::from_secs(36)),
        [Action::Ended(Ended::Silent(silence))]
    );
    assert!(session.is_over());
}

#[test]
fn while_we_stand_still_ourselves_nobody_is_silent() {
    let mut session = greeted();
    let mut tick = |seconds: f32| session.on_event(Event::Tick, Duration::from_secs_f32(seconds));
    for (at, told) in [
        (1.0, vec![]),
        (3.0, vec![]),
        // The whole machine stood still: whoever speaks every second did not get to it either.
        (63.0, vec![]),
        (64.9, vec![]),
        (66.8, vec![]),
        (67.9, vec![]),
        (68.0, vec![Action::Stale]),
    ] {
        assert_eq!(tick(at), told, "at {at} s");
    }
}

#[test]
fn questions_end_in_time_and_their_number_is_bounded() {
    let mut session = greeted();
    let ask = |ticket| Event::Ask {
        ticket,
        kind: "echo".to_owned(),
        body: Bytes::new(),
        timeout: Duration::from_secs(2),
    };
    for ticket in 0..64 {
        assert_eq!(session.on_event(ask(ticket), START), []);
    }
    let busy = Action::Answered { ticket: 64, result: Err(AskError::Busy) };
    assert_eq!(session.on_event(ask(64), START), [busy]);
    let answered = receive(&mut session, Frame::Reply { id: 1, result: Ok(Bytes::from_static(b"yes")) });
    assert_eq!(answered, [Action::Answered { ticket: 0, result: Ok(Bytes::from_static(b"yes")) }]);
    let over = session.on_event(Event::Tick, Duration::from_secs(2));
    assert_eq!(over.len(), 63);
    assert!(
        over.iter().all(|action| matches!(action, Action::Answered { result: Err(AskError::TimedOut), .. }))
    );
    assert_eq!(receive(&mut session, Frame::Reply { id: 2, result: Ok(Bytes::new()) }), [], "too late");
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_and_left() {
    let big = || vec![entry("a", 1000 << 10)];
    let names = |n: usize| (0..n).map(|n| format!("endpoints/{n}")).collect();
    let cases: Vec<(&str, Vec<Frame>, Violation)> = vec![
        (
            "more in one batch than we hold",
            vec![chunk(1, 0, vec![entry("a", 100 << 10)], None), chunk(1, 1, big(), None)],
            Violation::Staged(Topic::PROXY),
        ),
        (
            "more than there was credit for",
            vec![chunk(1, 0, vec![entry("a", 256 << 10)], None), chunk(1, 1, Vec::new(), last(1))],
            Violation::Credit(Topic::PROXY),
        ),
        (
            "a second batch before the first is acknowledged",
            vec![chunk(1, 0, Vec::new(), last(1)), chunk(2, 0, Vec::new(), last(2))],
            Violation::Unbidden(Topic::PROXY),
        ),
        (
            "too many subscriptions",
            vec![Frame::Subscribe { added: names(11), removed: Vec::new() }],
            Violation::Subscriptions,
        ),
        (
            "too many questions",
            (0..65).map(|id| Frame::Query { id, kind: String::new(), body: Bytes::new() }).collect(),
            Violation::Questions,
        ),
        ("opening for ever", (1..18).map(open).collect(), Violation::Openings(Topic::PARTS)),
    ];
    for (why, frames, want) in cases {
        let mut session = greeted();
        let actions: Vec<_> = frames.into_iter().flat_map(|frame| receive(&mut session, frame)).collect();
        assert_eq!(violation(&actions), Some(&want), "{why}");
        assert_eq!(session.next_frame(START), Some(Frame::Close { reason: want.to_string() }), "{why}");
        assert_eq!(session.next_frame(START), None, "{why}");
    }
    let mut session = session();
    let actions = receive(&mut session, Frame::SignalEcho { sequence: 1 });
    assert_eq!(violation(&actions), Some(&Violation::NoHello));
}

#[test]
fn words_about_topics_that_we_do_not_know_are_ignored() {
    let mut session = greeted();
    let topic: Topic = "dreams".parse().unwrap();
    let frames = [
        Frame::Open { topic: topic.clone(), opening: 1, place: Place::default(), window: WINDOW },
        Frame::Ack { topic: topic.clone(), opening: 1, batch: 1, world: world(1), refused: Vec::new() },
        Frame::Credit { topic, opening: 1, batch: 1, bytes: 1 },
        Frame::Reply { id: 77, result: Ok(Bytes::new()) },
    ];
    for frame in frames {
        assert_eq!(receive(&mut session, frame), []);
    }
}
