use futures::stream;
use identity::{Pin, PrivateKey};
use model::Origin;
use store::MemoryStore;
use sync::link::{self, Host, Options, Topics, Transport};
use sync::session::{Limits, Timing};
use tokio::sync::mpsc;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

fn zone(name: &str) -> Origin {
    Origin::Zone(name.parse().unwrap())
}

fn claims(aud: Audience, iss: Issuer, change: impl FnOnce(&mut TokenClaims)) -> TokenClaims {
    let mut claims = TokenClaims {
        iss,
        aud,
        sub: "test".into(),
        mesh: None,
        zone: None,
        workload: None,
        names: Vec::new(),
        addresses: Vec::new(),
        uses: None,
        nbf: seconds(now()),
        exp: seconds(now()) + HOUR,
        jti: "t1".into(),
        ca: Pin::of(b""),
    };
    change(&mut claims);
    claims
}

fn dataplane(change: impl FnOnce(&mut TokenClaims)) -> TokenClaims {
    claims(Audience::Dataplane, Issuer::Zone("east".parse().unwrap()), |claims| {
        claims.mesh = Some("default".parse().unwrap());
        claims.workload = Some("web".parse().unwrap());
        change(claims);
    })
}

#[test]
fn a_token_makes_its_bearer_what_it_says_and_nothing_else() {
    let global = ServerRole::Global;
    let east = ServerRole::Zone("east".parse().unwrap());
    let for_east = || claims(Audience::Zone, Issuer::Global, |c| c.zone = Some("east".parse().unwrap()));
    let ingress = |change: fn(&mut TokenClaims)| {
        claims(Audience::Ingress, Issuer::Zone("east".parse().unwrap()), change)
    };
    let named = |c: &mut TokenClaims| c.names = vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()];
    let cases = [
        ("a zone", for_east(), "zone/east", &global, true),
        ("another zone", for_east(), "zone/west", &global, false),
        (
            "no zone in particular",
            claims(Audience::Zone, Issuer::Global, |_| ()),
            "zone/east",
            &global,
            false,
        ),
        ("a zone at a zone", for_east(), "zone/east", &east, false),
        ("a sidecar", dataplane(|_| ()), "proxy/default/web-1", &east, true),
        ("a sidecar at the global", dataplane(|_| ()), "proxy/default/web-1", &global, false),
        ("another mesh", dataplane(|_| ()), "proxy/shop/web-1", &east, false),
        ("no mesh", dataplane(|c| c.mesh = None), "proxy/default/web-1", &east, false),
        ("no workload", dataplane(|c| c.workload = None), "proxy/default/web-1", &east, false),
        ("one of its names", dataplane(named), "proxy/default/web-2", &east, true),
        ("none of its names", dataplane(named), "proxy/default/web-3", &east, false),
        (
            "another zone's",
            dataplane(|c| c.zone = Some("west".parse().unwrap())),
            "proxy/default/web-1",
            &east,
            false,
        ),
        ("an ingress", ingress(|_| ()), "ingress/east-1", &east, true),
        (
            "none of its ingresses",
            ingress(|c| c.names = vec!["east-1".parse().unwrap()]),
            "ingress/east-2",
            &east,
            false,
        ),
    ];
    for (why, claims, peer, server, may) in cases {
        let decided = decide(&claims, &peer.parse().unwrap(), server, Past::default(), now());
        assert_eq!(decided.is_ok(), may, "{why}: {decided:?}");
    }
}

#[test]
fn uses_and_earlier_grants_count() {
    let east = ServerRole::Zone("east".parse().unwrap());
    let peer: Peer = "proxy/default/web-1".parse().unwrap();
    let held = |workload: &str, until: u64| Grant {
        workload: Some(workload.parse().unwrap()),
        addresses: Vec::new(),
        until,
        token: "t0".into(),
    };
    let (soon, past) = (seconds(now()) + 1, seconds(now()));
    let cases = [
        ("first use", Some(1), 0, None, true),
        ("second use of one", Some(1), 1, None, false),
        ("unlimited", None, 1000, None, true),
        ("the same workload again", None, 0, Some(held("web", soon)), true),
        ("s37 another workload's proxy", None, 0, Some(held("db", soon)), false),
        ("another workload's proxy of the past", None, 0, Some(held("db", past)), true),
    ];
    for (why, most, uses, grant, may) in cases {
        let claims = dataplane(|claims| claims.uses = most);
        let past = Past { uses, grant: grant.as_ref() };
        let decided = decide(&claims, &peer, &east, past, now());
        assert_eq!(decided.is_ok(), may, "{why}: {decided:?}");
    }
}

#[tokio::test]
async fn a_limited_token_is_counted_over_restarts_and_a_bad_request_costs_no_use() {
    let store = MemoryStore::new(zone("east"));
    let csr = PrivateKey::generate().request();
    let peer = "proxy/default/web-1";
    let token = {
        let home = Home::on(store.clone(), now()).await.unwrap();
        home.token_key.issue(&dataplane(|claims| {
            claims.uses = Some(2);
            claims.addresses = vec!["10.0.0.7".parse().unwrap()];
        }))
    };
    let mut chain = None;
    for (why, csr, fits) in [
        ("garbage", &b"garbage"[..], false),
        ("first", csr.der(), true),
        ("second", csr.der(), true),
        ("third", csr.der(), false),
    ] {
        let enroller = Enroller::open(Home::on(store.clone(), now()).await.unwrap()).await.unwrap();
        let enrolled = enroller.enrol(&token, csr, peer, now()).await;
        assert_eq!(enrolled.is_ok(), fits, "{why}: {enrolled:?}");
        chain = enrolled.ok().map(|enrolled| enrolled.chain).or(chain);
    }
    let last = chain.unwrap();
    let enroller = Enroller::open(Home::on(store, now()).await.unwrap()).await.unwrap();
    let peer = peer.parse().unwrap();
    let grant = enroller.grant(&peer).await.unwrap().unwrap();
    assert_eq!((grant.workload.as_deref(), grant.addresses.len()), (Some("web"), 1));

    let later = now() + Duration::from_secs(24 * HOUR);
    let admission = enroller.admit(&last[0], Handle::new()).unwrap();
    let chain = enroller.renew(&admission, csr.der(), later).await.unwrap();
    let known = identity::peer_from_certificate(&chain[0], &ServerRole::Zone("east".parse().unwrap()));
    assert_eq!(known, Ok(peer.clone()));
    assert!(enroller.grant(&peer).await.unwrap().unwrap().until > grant.until);

    enroller.forget(&peer).await.unwrap();
    assert!(enroller.grant(&peer).await.unwrap().is_none());
    assert!(matches!(enroller.renew(&admission, csr.der(), later).await, Err(EnrolError::NoGrant)));
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told() {
    let home = Home::on(MemoryStore::new(Origin::Global), now()).await.unwrap();
    let csr = PrivateKey::generate().request();
    let good = claims(Audience::Zone, Issuer::Global, |c| c.zone = Some("east".parse().unwrap()));
    let issue = |change: fn(&mut TokenClaims)| {
        let mut claims = good.clone();
        change(&mut claims);
        home.token_key.issue(&claims)
    };
    let expired = issue(|claims| claims.exp = claims.nbf);
    let early = issue(|claims| claims.nbf += HOUR);
    let other_use = issue(|claims| claims.aud = Audience::Api);
    let other = Home::on(MemoryStore::new(Origin::Global), now()).await.unwrap().token_key.issue(&good);
    let enroller = Enroller::open(home.clone()).await.unwrap();
    for (token, peer, told) in [
        ("garbage", "zone/east", "malformed"),
        (&expired, "zone/east", "expired"),
        (&early, "zone/east", "compare the clocks"),
        (&other_use, "zone/east", "is for 'api'"),
        (&other, "zone/east", "not ours"),
        (&expired, "zone/global", "names no peer"),
        (&expired, "proxy/default/web-1", "does not join at"),
    ] {
        let error = enroller.enrol(token, csr.der(), peer, now()).await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn s39_a_revoked_token_lets_nobody_in_and_turns_away_whoever_joined_by_it() {
    let store = MemoryStore::new(zone("east"));
    let home = Home::on(store.clone(), now()).await.unwrap();
    let csr = PrivateKey::generate().request();
    let token = |jti: &str| home.token_key.issue(&dataplane(|claims| claims.jti = jti.into()));
    let (stolen, good) = (token("stolen"), token("good"));
    let enroller = Enroller::open(home.clone()).await.unwrap();
    let join = async |enroller: &Enroller, token: &str, name: &str| {
        let peer = format!("proxy/default/{name}");
        Ok::<_, EnrolError>(enroller.enrol(token, csr.der(), &peer, now()).await?.chain.swap_remove(0))
    };
    let thief = join(&enroller, &stolen, "web-1").await.unwrap();
    let web_2 = join(&enroller, &good, "web-2").await.unwrap();
    let gone = join(&enroller, &stolen, "web-3").await.unwrap();
    let admission = enroller.admit(&thief, Handle::new()).unwrap();
    let _stays = enroller.admit(&web_2, Handle::new()).unwrap();
    drop(enroller.admit(&gone, Handle::new()).unwrap());
    // A certificate that was renewed stands on the same token.
    let renewed = enroller.renew(&admission, csr.der(), now()).await.unwrap().swap_remove(0);

    let turned_away = enroller.revoke("stolen", now()).await.unwrap();
    let away = vec!["proxy/default/web-3".parse().unwrap()];
    let expected = TurnedAway { connected: vec![admission.peer.clone()], away };
    assert_eq!(turned_away, expected, "who joined by it, and nobody else");
    let names = |enroller: &Enroller| {
        let away = enroller.turned_away();
        away.borrow().iter().map(Peer::to_string).collect::<Vec<_>>()
    };
    let (first, third) = ("proxy/default/web-1".to_owned(), "proxy/default/web-3".to_owned());
    assert_eq!(names(&enroller), [first.clone(), third.clone()]);
    let mut expected = vec![first, third.clone()];
    drop(admission);
    for number in [1, 2] {
        let enroller = Enroller::open(Home::on(store.clone(), now()).await.unwrap()).await.unwrap();
        assert_eq!(names(&enroller), expected, "as after every start: {number}");
        for certificate in [&thief, &gone, &renewed] {
            let refused = enroller.admit(certificate, Handle::new());
            assert!(matches!(refused, Err(Refusal::Denied(why)) if why.contains("was revoked")));
        }
        enroller.admit(&web_2, Handle::new()).unwrap();
        let again = join(&enroller, &stolen, "web-4").await;
        assert!(matches!(again, Err(EnrolError::Denied(Denied::Revoked))), "{again:?}");

        // What it granted is nobody's: its name is free for another workload, and the thief stays out.
        let peer = "proxy/default/web-3".parse().unwrap();
        assert_eq!(enroller.grant(&peer).await.unwrap(), None);
        let back = join(&enroller, &good, "web-1").await.unwrap();
        if number == 1 {
            assert_eq!(names(&enroller), expected, "what the thief registered still stands");
        }
        enroller.registered(&"proxy/default/web-1".parse().unwrap());
        expected = vec![third.clone()];
        assert_eq!(names(&enroller), expected, "who joined by another is turned away no more");
        enroller.admit(&back, Handle::new()).unwrap();
        assert!(enroller.admit(&thief, Handle::new()).is_err());
        let again = enroller.revoke("stolen", now()).await.unwrap();
        assert_eq!((again.connected.len(), again.away.len()), (0, 1), "web-1 joined by another since");
    }
    let enroller = Enroller::open(Home::on(store, now()).await.unwrap()).await.unwrap();
    enroller.forget(&"proxy/default/web-3".parse().unwrap()).await.unwrap();
    assert_eq!(names(&enroller), [""; 0]);
}

/// Whoever has a session and says nothing.
struct Silent;

impl Host for Silent {
    fn topics(&self) -> Topics {
        Topics::default()
    }
}

#[tokio::test(start_paused = true)]
async fn s39_a_session_ends_with_the_last_certificate_of_its_peer_and_not_with_its_token() {
    let begin = time::Instant::now();
    let clock = Clock::new(move || now() + begin.elapsed());
    let home = Home::on(MemoryStore::new(zone("east")), clock.now()).await.unwrap();
    let enroller = Arc::new(Enroller::open(home.clone()).await.unwrap());
    let (watching, by) = (enroller.clone(), clock.clone());
    tokio::spawn(async move { watching.run(&by, CancellationToken::new()).await });

    let csr = PrivateKey::generate().request();
    let token = home.token_key.issue(&dataplane(|_| ()));
    let connect = async |name: &str| {
        let peer = format!("proxy/default/{name}");
        let chain = enroller.enrol(&token, csr.der(), &peer, clock.now()).await.unwrap().chain;
        let handle = Handle::new();
        let admission = enroller.admit(&chain[0], handle.clone()).unwrap();
        let (outgoing, written) = mpsc::channel(64);
        // Nobody listens for heartbeats, and there are many days.
        let long = Duration::from_secs(100 * DAY);
        let timing = Timing { heartbeat: long, stale: long, offline: long };
        let options = Options { timing, ..Options::new("test", Limits::PROXY) };
        let session = tokio::spawn(async move {
            let transport = Transport { incoming: stream::pending(), outgoing };
            let stop = CancellationToken::new();
            let ended = link::run(Arc::new(Silent), &handle, transport, &options, 1, &stop).await;
            drop(written);
            (ended.to_string(), begin.elapsed())
        });
        (admission, session)
    };
    let (renews, first) = connect("web-1").await;
    let (_forgets, second) = connect("web-2").await;

    time::sleep(Duration::from_secs(10 * DAY)).await;
    let late = enroller.enrol(&token, csr.der(), "proxy/default/web-3", clock.now()).await;
    assert!(matches!(late, Err(EnrolError::Denied(Denied::Token(TokenError::Expired { .. })))), "{late:?}");
    enroller.renew(&renews, csr.der(), clock.now()).await.unwrap();
    assert!(!first.is_finished() && !second.is_finished(), "the token ended what it gave");

    for (session, days) in [(second, 30), (first, 40)] {
        let (ended, at) = session.await.unwrap();
        assert!(ended.contains("certificate of proxy/default/web-") && ended.contains("ended"), "{ended}");
        let end = Duration::from_secs(days * DAY);
        assert!((end..end + Duration::from_secs(5)).contains(&at), "{at:?} instead of {end:?}");
    }
}
