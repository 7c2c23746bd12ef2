//! Signals on their way from the owner of a destination to those who use it.

use std::time::Duration;

use tokio::time;

use crate::fixture::{Global, LIMIT};

const CATALOG: &str = "exports/ms_default_west__catalog_80";

#[tokio::test]
async fn exports_reach_those_who_want_them_and_stand_while_their_owner_is_away() {
    let global = Global::start().await;
    let (east, mut west) = (global.zone("east").await, global.zone("west").await);
    east.handle.subscribe([CATALOG]);
    let seen = east.until("a first word", |seen| seen.signals.contains_key(CATALOG)).await;
    assert!(seen.signals[CATALOG].value.is_empty());
    west.until("the wish", |seen| seen.wanted.contains(CATALOG)).await;
    west.signal(CATALOG, "[1]");
    east.until("the exports", |seen| seen.signals[CATALOG].value == "[1]").await;
    west.signal(CATALOG, "[2]");
    east.until("the later exports", |seen| seen.signals[CATALOG].value == "[2]").await;

    west.disconnect().await;
    let north = global.zone("north").await;
    north.handle.subscribe([CATALOG]);
    north.until("the last word", |seen| seen.signals.get(CATALOG).is_some_and(|it| it.value == "[2]")).await;
    // A new session of the owner is asked again, and may know nothing yet.
    let mut fresh = west.twin();
    fresh.signal(CATALOG, "");
    fresh.connect(&global).await;
    fresh.until("the wish", |seen| seen.wanted.contains(CATALOG)).await;
    fresh.signal(CATALOG, "[3]");
    let seen = north.until("the new exports", |seen| seen.signals[CATALOG].value == "[3]").await;
    assert_eq!(seen.signals[CATALOG].origin.as_str(), "west");
}

#[tokio::test]
async fn exports_are_settled_when_those_who_want_them_have_passed_them_on() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    east.handle.subscribe([CATALOG]);
    west.until("the wish", |seen| seen.wanted.contains(CATALOG)).await;
    time::timeout(LIMIT, west.handle.settled()).await.expect("nothing is on its way");
    east.site.listening.send_replace(false);
    west.signal(CATALOG, "[1]");
    east.until("the exports", |seen| seen.signals[CATALOG].value == "[1]").await;
    let early = time::timeout(Duration::from_millis(300), west.handle.settled()).await;
    assert!(early.is_err(), "its proxies have not heard of it");
    east.site.listening.send_replace(true);
    time::timeout(LIMIT, west.handle.settled()).await.expect("now they have");
}

#[tokio::test]
async fn s36_exports_of_another_zone_are_ignored() {
    let global = Global::start().await;
    let (east, west, liar) =
        (global.zone("east").await, global.zone("west").await, global.zone("liar").await);
    east.handle.subscribe([CATALOG]);
    west.until("the wish", |seen| seen.wanted.contains(CATALOG)).await;
    // Nobody asks the liar: it only gets a say by being asked for something of its own.
    liar.signal(CATALOG, "[666]");
    east.handle.subscribe(["exports/ms_default_liar__catalog_80"]);
    liar.until("a wish", |seen| seen.wanted.contains("exports/ms_default_liar__catalog_80")).await;
    assert!(!liar.until("nothing", |_| true).await.wanted.contains(CATALOG));
    liar.signal("exports/ms_default_liar__catalog_80", "[9]");
    let own = "exports/ms_default_liar__catalog_80";
    east.until("its own", |seen| seen.signals.get(own).is_some_and(|it| it.value == "[9]")).await;
    west.signal(CATALOG, "[1]");
    let seen = east.until("the exports", |seen| !seen.signals[CATALOG].value.is_empty()).await;
    assert_eq!(seen.signals[CATALOG].value, "[1]");
}
