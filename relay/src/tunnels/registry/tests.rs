//! Who holds what when developers come, come back, go, and get in each other's way.

use std::time::{Duration, SystemTime};

use culvert_protocol::hello::{DeniedCode, FromRelay, Hello, UnixMillis};
use culvert_protocol::intercept::Matcher;
use culvert_protocol::message::{Fields, RequestHead};
use proptest::prelude::*;

use super::*;
use crate::tunnels::session::Start;
use crate::tunnels::tests::dialer::{People, intercept};

/// Some relay, of an authority that all of them have.
fn stamps(relay: &str) -> Stamps {
    Stamps::new(&culvert_certs::Secret::new([7; 32]), relay.to_owned())
}

fn registry() -> Arc<Registry> {
    replica("r1")
}

fn replica(relay: &str) -> Arc<Registry> {
    registry_of(relay, 10_000)
}

/// With room for so many claims.
fn registry_of(relay: &str, most: usize) -> Arc<Registry> {
    let service = |name: &str, all_traffic| {
        (name.parse().unwrap(), vec!["127.0.0.1:8080".to_owned()], policy::Terms { all_traffic })
    };
    Registry::new([service("orders", true), service("carts", false)], most, Gauge::default(), stamps(relay))
}

/// Whose session a request to `orders` with this header goes to.
fn goes_to(registry: &Registry, value: &str) -> Option<String> {
    let fields: Fields = [(&b"x-user"[..], value.as_bytes())].into_iter().collect();
    let request = RequestHead { fields, ..RequestHead::default() };
    let routes = registry.table(&"orders".parse().unwrap()).load_full();
    routes.pick(&request).and_then(|claim| claim.lane(&[])).map(|lane| lane.session.host.clone())
}

/// As a client announces without a stamp.
trait Claims {
    fn claims(
        &self,
        session: &Arc<Session>,
        number: u64,
        intercept: Intercept,
    ) -> Result<Registration, Refused>;
}

impl Claims for Arc<Registry> {
    fn claims(
        &self,
        session: &Arc<Session>,
        number: u64,
        intercept: Intercept,
    ) -> Result<Registration, Refused> {
        self.register(session, Announced { number, intercept, stamp: None })
    }
}

#[test]
fn a_claim_is_in_force_for_as_long_as_its_guard() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let claim = registry.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    assert_eq!((claim.generation, &claim.listen[..]), (1, &["127.0.0.1:8080".to_owned()][..]));
    assert_eq!(goes_to(&registry, "alice").as_deref(), Some("laptop"));
    assert_eq!(goes_to(&registry, "bob"), None);
    drop(claim);
    assert_eq!(goes_to(&registry, "alice"), None);
}

#[test]
fn a_task_that_panics_leaves_no_dead_route_behind() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let held = Arc::clone(&registry);
    let panicked = std::thread::spawn(move || {
        let _claim = held.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(goes_to(&registry, "alice"), None);
}

#[test]
fn my_own_dead_session_is_never_in_my_way() {
    let (people, registry) = (People::new(), registry());
    let (dead, back) = (people.session("alice", "dead", 1), people.session("alice", "back", 2));
    for (older, newer) in [
        // The same name, for something else; and another name for the same requests.
        (("a", "x-user=alice"), ("a", "x-user=al")),
        (("a", "x-user=alice"), ("b", "x-user=alice")),
        (("a", "x-user=alice"), ("a", "x-user=alice")),
    ] {
        let first = registry.claims(&dead, 7, intercept(older.0, "orders", older.1)).unwrap();
        let second = registry.claims(&back, 1, intercept(newer.0, "orders", newer.1)).unwrap();
        assert_eq!(second.generation, 2);
        let value = newer.1.strip_prefix("x-user=").unwrap();
        assert_eq!(goes_to(&registry, value).as_deref(), Some("back"));
        drop(first);
        assert_eq!(
            goes_to(&registry, value).as_deref(),
            Some("back"),
            "an older guard took out the newer claim"
        );
        drop(second);
        assert_eq!(goes_to(&registry, value), None);
    }
    let told = dead.mail();
    assert_eq!(told.len(), 3);
    for message in told {
        let FromRelay::Superseded { claim: 7, by } = message else { panic!("{message:?}") };
        assert_eq!((by.owner.as_str(), by.host.as_str()), ("alice", "back"));
    }
}

#[test]
fn a_client_that_dials_again_is_not_told_that_it_superseded_itself() {
    let (people, registry) = (People::new(), registry());
    let (first, again) = (people.session("alice", "laptop", 1), people.session("alice", "laptop", 1));
    let _first = registry.claims(&first, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let _again = registry.claims(&again, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    assert_eq!(first.mail(), []);
}

#[test]
fn somebody_elses_requests_are_theirs_and_the_refusal_names_them() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let _claim = registry.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let both = Intercept {
        matcher: Matcher::new(["x-user=alice".parse().unwrap(), "x-team=red".parse().unwrap()]).unwrap(),
        ..intercept("b", "orders", "x-user=alice")
    };
    for taken in [intercept("a", "orders", "x-user=alice"), both] {
        let refused = registry.claims(&bob, 9, taken).unwrap_err();
        let FromRelay::Denied { claim: 9, code: DeniedCode::Conflict, message, holder: Some(holder) } =
            refused.denial(9)
        else {
            panic!("{refused:?}")
        };
        assert_eq!(message, "alice on laptop holds x-user=alice already");
        assert_eq!((holder.owner.as_str(), holder.host.as_str()), ("alice", "laptop"));
    }
    let _other_value = registry.claims(&bob, 1, intercept("b", "orders", "x-user=bob")).unwrap();
    let _other_service = registry.claims(&bob, 2, intercept("c", "carts", "x-user=alice")).unwrap();
}

#[test]
fn all_traffic_is_what_others_leave_over_and_one_persons_only() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let _all = registry.claims(&alice, 1, intercept("all", "orders", "")).unwrap();
    let _some = registry.claims(&bob, 1, intercept("some", "orders", "x-user=bob")).unwrap();
    assert_eq!(goes_to(&registry, "bob").as_deref(), Some("desk"));
    assert_eq!(goes_to(&registry, "anybody").as_deref(), Some("laptop"));
    let refused = registry.claims(&bob, 2, intercept("all", "orders", "")).unwrap_err();
    assert!(matches!(refused, Refused::Conflict { .. }), "{refused:?}");

    let refused = registry.claims(&bob, 3, intercept("all", "carts", "")).unwrap_err();
    assert!(refused.to_string().contains("may not take all traffic of carts"), "{refused}");
    assert!(refused.to_string().ends_with("(rule all-traffic)"), "{refused}");
}

#[test]
fn coming_back_does_not_change_who_wins() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let one = registry.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let team = |value: &str| format!("x-team={value}");
    let _other = registry.claims(&bob, 1, intercept("b", "orders", &team("red"))).unwrap();
    let fields: Fields = [(&b"x-user"[..], &b"alice"[..]), (b"x-team", b"red")].into_iter().collect();
    let request = RequestHead { fields, ..RequestHead::default() };
    let winner = || {
        let routes = registry.table(&"orders".parse().unwrap()).load_full();
        routes.pick(&request).map(|claim| (claim.host.clone(), claim.since))
    };
    let (host, since) = winner().unwrap();
    assert_eq!(host, "laptop", "the older of two equally specific claims");
    let back = people.session("alice", "laptop", 3);
    let _again = registry.claims(&back, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    drop(one);
    assert_eq!(winner(), Some((host, since)));
}

#[test]
fn a_service_that_is_not_here_is_named_with_the_one_that_was_meant() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let said = |service: &str| {
        registry.claims(&alice, 1, intercept("a", service, "x-user=alice")).unwrap_err().to_string()
    };
    assert_eq!(said("order"), "no service `order` here: did you mean `orders`?");
    assert_eq!(said("billing"), "no service `billing` here: there is carts, orders");
}

#[test]
fn one_person_cannot_fill_the_relay() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let claim = |session, n: u64| {
        registry.claims(session, n, intercept(&format!("n{n}"), "orders", &format!("x-user=u{n}")))
    };
    let mut held: Vec<_> = (0..200).map(|n| claim(&alice, n).unwrap()).collect();
    let refused = claim(&alice, 200).unwrap_err();
    assert!(matches!(refused.denial(200), FromRelay::Denied { code: DeniedCode::TooMany, .. }));
    let _others = claim(&bob, 300).unwrap();
    let newer = people.session("alice", "laptop", 3);
    let _superseding_is_not_one_more = claim(&newer, 199).unwrap();
    held.truncate(10);
    let _room_again = claim(&alice, 200).unwrap();
}

#[test]
fn claims_change_at_one_pace_however_many_tunnels_a_developer_has() {
    let (people, registry) = (People::new(), registry());
    let tunnels: Vec<_> = (1..=10).map(|n| people.session("alice", "laptop", n)).collect();
    let claim = |session: &Arc<Session>, n: u64| {
        let claim = intercept(&format!("n{n}"), "orders", &format!("x-user=u{n}"));
        registry.claims(session, n, claim).map(|claim| claim.end(Ended::Withdrawn))
    };
    let begun = Instant::now();
    let taken = tunnels.iter().cycle().zip(0..2_000).filter(|(tunnel, n)| claim(tunnel, *n).is_ok()).count();
    // One to claim and one to withdraw; and 20 a second since.
    let most = 200 + 1 + begun.elapsed().as_millis() / 50;
    assert!((200..=usize::try_from(most).unwrap()).contains(&taken), "{taken} were taken");
    assert_eq!(claim(&people.session("alice", "desk", 11), 0), Err(Refused::TooFast));
    // Another developer's are another matter.
    assert_eq!(claim(&people.session("bob", "desk", 12), 0), Ok(()));
}

#[test]
fn a_further_tunnel_for_what_is_in_force_is_no_change() {
    let (people, registry) = (People::new(), registry());
    let one = people.session("alice", "laptop", 1);
    let _first = registry.claims(&one, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    for number in 0..1_000 {
        let another = people.session("alice", "laptop", 1);
        let lane = registry.claims(&another, number, intercept("a", "orders", "x-user=alice")).unwrap();
        assert!(lane.joined);
        lane.end(Ended::Withdrawn);
    }
}

#[test]
fn a_relay_takes_as_many_claims_as_it_was_told_to() {
    let (people, registry) = (People::new(), registry_of("r1", 2));
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let first = registry.claims(&alice, 1, intercept("a", "orders", "x-user=a")).unwrap();
    let _second = registry.claims(&bob, 1, intercept("b", "orders", "x-user=b")).unwrap();
    let third = || registry.claims(&bob, 2, intercept("c", "orders", "x-user=c"));
    assert_eq!(third().unwrap_err(), Refused::TooManyClaims);
    drop(first);
    let _third = third().unwrap();
}

#[test]
fn who_was_replaced_while_it_could_not_hear_does_not_take_it_back() {
    let (people, registry) = (People::new(), registry());
    let (laptop, desktop) = (people.session("alice", "laptop", 1), people.session("alice", "desktop", 2));
    let slept = registry.claims(&laptop, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    drop(slept);
    let _desktops = registry.claims(&desktop, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    for name in ["a", "under another name"] {
        let refused = registry.claims(&laptop, 2, intercept(name, "orders", "x-user=alice")).unwrap_err();
        let FromRelay::Superseded { claim: 2, by } = refused.denial(2) else { panic!("{refused}") };
        assert_eq!(by.host, "desktop");
    }
    assert_eq!(goes_to(&registry, "alice").as_deref(), Some("desktop"));
    // Once nobody has it, whoever is there may.
    drop(_desktops);
    let _again = registry.claims(&laptop, 3, intercept("a", "orders", "x-user=alice")).unwrap();
    assert_eq!(goes_to(&registry, "alice").as_deref(), Some("laptop"));
}

#[test]
fn of_two_that_are_started_at_once_the_same_one_stays_on_every_replica() {
    let people = People::new();
    let (one, other) = (people.session("alice", "one", 1), people.session("alice", "other", 2));
    for order in [[&one, &other], [&other, &one]] {
        let registry = registry();
        let claims = order.map(|session| {
            registry
                .claims(session, 1, intercept("a", "orders", "x-user=alice"))
                .ok()
                .map(|claim| (claim, session))
        });
        assert_eq!(goes_to(&registry, "alice").as_deref(), Some("other"));
        drop(claims);
    }
}

#[test]
fn when_a_client_was_started_is_believed_from_relays_alone_and_never_goes_back() {
    let (people, here, there) = (People::new(), registry(), replica("r2"));
    let alice = people.session("alice", "laptop", 7);
    let first = here.start(&alice.identity, &crate::tunnels::tests::dialer::hello("laptop", 7));
    let stamp = here.stamps.start(&alice.identity.name, &first);
    let hello = |instance, stamp: &Stamp| Hello {
        began: Some(stamp.clone()),
        ..crate::tunnels::tests::dialer::hello("laptop", instance)
    };
    assert_eq!(there.start(&alice.identity, &hello(7, &stamp)), first);
    let bob = people.session("bob", "desktop", 7);
    let later = Stamp { since: UnixMillis(stamp.since.0 + 9_999_999), ..stamp.clone() };
    for (identity, hello) in [
        (&alice.identity, hello(8, &stamp)),
        (&bob.identity, hello(7, &stamp)),
        (&alice.identity, hello(7, &later)),
    ] {
        let made_up = there.start(identity, &hello);
        assert_eq!((made_up.relay.as_str(), made_up.instance), ("r2", hello.instance));
        assert_ne!(made_up.at, later.since);
    }
    // A relay whose clock is behind does not put the next start before the last.
    let ahead = Start { at: UnixMillis(u64::MAX / 2), ..first };
    let tunnel = alice.tunnel.clone();
    let peer = crate::tunnels::Peer { tunnel, identity: alice.identity.clone() };
    let ahead = Session::new(peer, &hello(7, &stamp), ahead, &crate::metrics::TunnelMetrics::default());
    let _admitted = there.admit(&ahead).unwrap();
    let next = there.start(&alice.identity, &crate::tunnels::tests::dialer::hello("desktop", 9));
    assert!(next > ahead.start, "{next:?}");
}

#[test]
fn who_was_away_when_it_was_killed_is_told_so_when_it_comes_back() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "laptop", 1));
    let lost = registry.claims(&alice, 1, kept("503", None)).unwrap();
    let _bobs = registry.claims(&bob, 1, intercept("b", "orders", "x-user=bob")).unwrap();
    drop(lost);
    assert_eq!(registry.kill("a").claims, 1);
    let refused = registry.claims(&alice, 2, kept("503", None)).unwrap_err();
    assert!(matches!(refused.denial(2), FromRelay::Denied { code: DeniedCode::NotAllowed, .. }), "{refused}");
    let anew = people.session("alice", "laptop", 2);
    let _anew = registry.claims(&anew, 1, kept("503", None)).unwrap();
    assert_eq!(goes_to(&registry, "bob").as_deref(), Some("laptop"));
}

#[test]
fn a_tunnel_carries_a_claim_once() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let _claim = registry.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let refused = registry.claims(&alice, 2, intercept("a", "orders", "x-user=alice")).unwrap_err();
    assert!(matches!(refused, Refused::Carried), "{refused}");
}

#[derive(Clone, Debug)]
enum Step {
    /// Who claims what, under which name.
    Claim(usize, Intercept),
    /// The so-manieth of the guards that there are is dropped.
    Drop(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let conditions = prop::collection::vec(prop::sample::select(&["a=1", "a=2", "b=1", "c=1"][..]), 0..4);
    let names = prop::sample::select(&["one", "two", "three", "four"][..]);
    let services = prop::sample::select(&["orders", "orders", "carts"][..]);
    let claim = (0..3usize, names, services, conditions).prop_map(|(who, name, service, conditions)| {
        let matcher = Matcher::new(conditions.iter().map(|text| text.parse().unwrap())).unwrap();
        Step::Claim(who, Intercept { matcher, ..intercept(name, service, "") })
    });
    prop_oneof![3 => claim, 1 => any::<prop::sample::Index>().prop_map(Step::Drop)]
}

#[test]
fn who_is_in_the_way_is_found_as_reading_every_claim_would() {
    let people = People::new();
    let sessions: Vec<_> =
        [("alice", 1), ("bob", 2), ("carol", 3)].map(|(name, at)| people.session(name, name, at)).into();
    proptest!(ProptestConfig::with_cases(64), |(steps in prop::collection::vec(step(), 1..60))| {
        let (registry, mut guards) = (registry(), Vec::new());
        for (number, step) in (0..).zip(steps) {
            match step {
                Step::Drop(which) if !guards.is_empty() => drop(guards.swap_remove(which.index(guards.len()))),
                Step::Drop(_) => {}
                Step::Claim(who, new) => {
                    let session = &sessions[who];
                    let held = registry.held.lock();
                    let near = held.near(&registry.services[&new.service], &session.identity.name, &new);
                    for entry in held.claims.iter() {
                        if entry.conflicts(session, &new) || entry.yields_to(session, &new) {
                            prop_assert!(near.contains(&entry.claim.fence), "{entry:?}");
                        }
                    }
                    drop(held);
                    guards.extend(registry.claims(session, number, new));
                }
            }
            // What the front door reads is what is held.
            let held = registry.held.lock();
            for (name, offered) in &registry.services {
                let table = offered.table.load();
                let all = Matcher::new(["a=1", "a=2", "b=1", "c=1"].map(|text| text.parse().unwrap())).unwrap();
                let mut read: Vec<_> = table.covering(&all).iter().map(|claim| claim.fence).collect();
                read.sort_unstable();
                let of_it = held.claims.iter().filter(|entry| entry.claim.intercept.service == *name);
                prop_assert_eq!(read, of_it.map(|entry| entry.claim.fence).collect::<Vec<_>>());
            }
        }
        drop(guards);
        prop_assert!(registry.held.lock().claims.is_forgotten());
    });
}

#[test]
fn a_list_shows_who_holds_what() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop\x1b[2J", 1);
    let _claim = registry.claims(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let [FromRelay::Listing { services, intercepts, more: false }] = &registry.listing()[..] else {
        panic!()
    };
    assert_eq!(services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(), ["carts", "orders"]);
    let [listed] = &intercepts[..] else { panic!() };
    assert_eq!((listed.matcher.as_str(), listed.generation), ("x-user=alice", 1));
    assert_eq!((listed.holder.owner.as_str(), listed.holder.host.as_str()), ("alice", "laptop??2J"));
}

/// What a request to `orders` with this header goes to, as the front door sees it.
fn claim_of(registry: &Registry, value: &str) -> Option<Arc<Claim>> {
    let fields: Fields = [(&b"x-user"[..], value.as_bytes())].into_iter().collect();
    let request = RequestHead { fields, ..RequestHead::default() };
    registry.table(&"orders".parse().unwrap()).load().pick(&request).cloned()
}

fn kept(policy: &str, ttl: Option<&str>) -> Intercept {
    Intercept {
        on_unreachable: policy.parse().unwrap(),
        ttl: ttl.map(|ttl| ttl.parse().unwrap()),
        ..intercept("a", "orders", "x-user=alice")
    }
}

#[test]
fn a_process_with_two_tunnels_holds_its_claim_until_the_last_is_gone() {
    let (people, registry) = (People::new(), registry());
    let (one, two) = (people.session("alice", "laptop", 1), people.session("alice", "laptop", 1));
    let first = registry.claims(&one, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let second = registry.claims(&two, 5, intercept("a", "orders", "x-user=alice")).unwrap();
    assert!(!first.joined && second.joined);
    assert_eq!((first.generation, second.generation), (1, 1));
    let claim = claim_of(&registry, "alice").unwrap();
    assert_eq!(claim.transports(), ["tls", "tls"]);
    // The next exchange goes where fewer are under way.
    assert_eq!(claim.lane(&[]).unwrap().number, 1);
    let busy = crate::tunnels::session::Carried::by(&one);
    assert_eq!(claim.lane(&[]).unwrap().number, 5);
    drop(busy);
    first.end(Ended::Withdrawn);
    assert_eq!(claim_of(&registry, "alice").unwrap().lane(&[]).unwrap().number, 5);
    second.end(Ended::Withdrawn);
    assert!(claim_of(&registry, "alice").is_none());
}

#[test]
fn another_process_of_mine_supersedes_every_tunnel_of_the_first_at_once() {
    let (people, registry) = (People::new(), registry());
    let (one, two) = (people.session("alice", "laptop", 1), people.session("alice", "laptop", 1));
    let newer = people.session("alice", "desk", 2);
    let _first = registry.claims(&one, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let _second = registry.claims(&two, 5, intercept("a", "orders", "x-user=alice")).unwrap();
    let newest = registry.claims(&newer, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    assert_eq!((newest.generation, newest.joined), (2, false));
    for (session, number) in [(&one, 1), (&two, 5)] {
        let told = session.mail();
        assert!(matches!(told[..], [FromRelay::Superseded { claim, .. }] if claim == number), "{told:?}");
    }
    assert_eq!(claim_of(&registry, "alice").unwrap().transports(), ["tls"]);
}

#[test]
fn a_tunnel_in_doubt_gets_no_request_until_it_says_a_word() {
    let (people, registry) = (People::new(), registry());
    let (one, two) = (people.session("alice", "laptop", 1), people.session("alice", "laptop", 1));
    let _first = registry.claims(&one, 1, kept("hold:3s", None)).unwrap();
    let _second = registry.claims(&two, 2, kept("hold:3s", None)).unwrap();
    let claim = claim_of(&registry, "alice").unwrap();
    one.doubt();
    assert_eq!(claim.lane(&[]).unwrap().number, 2);
    assert_eq!(claim.unreachable(), None);
    two.doubt();
    assert!(claim.lane(&[]).is_none() && claim.unreachable().is_some());
    let mut woken = next_change(&claim);
    one.heard();
    assert!(woken(), "callers who wait were not told");
    assert_eq!(claim.lane(&[]).unwrap().number, 1);
}

/// Whether the claim's next change has come.
fn next_change(claim: &Arc<Claim>) -> impl FnMut() -> bool {
    let claim = Arc::clone(claim);
    let mut changed = Box::pin(async move {
        let mut changed = std::pin::pin!(claim.changed());
        changed.as_mut().enable();
        changed.await;
    });
    let mut poll = move || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        changed.as_mut().poll(&mut cx).is_ready()
    };
    assert!(!poll());
    poll
}

#[tokio::test(start_paused = true)]
async fn who_was_lost_is_expected_back_for_as_long_as_the_policy_says() {
    let (people, registry) = (People::new(), registry());
    let stop = tokio_util::sync::CancellationToken::new();
    let expiring = registry.expire(stop.clone());
    let story = async {
        for (policy, ended, seconds) in [
            ("hold:3s", Ended::Lost, Some(3)),
            ("503", Ended::Lost, Some(60)),
            ("upstream", Ended::Lost, None),
            ("hold:3s", Ended::Withdrawn, None),
            ("hold:3s", Ended::Left, None),
            ("503", Ended::Stopped, None),
        ] {
            let alice = people.session("alice", "laptop", 1);
            registry.claims(&alice, 1, kept(policy, None)).unwrap().end(ended);
            let Some(seconds) = seconds else {
                assert!(claim_of(&registry, "alice").is_none(), "{policy} {ended:?}");
                continue;
            };
            let claim = claim_of(&registry, "alice").unwrap();
            assert!(claim.lane(&[]).is_none() && claim.unreachable().is_some());
            tokio::time::sleep(Duration::from_millis(seconds * 1000 - 100)).await;
            assert!(claim_of(&registry, "alice").is_some(), "{policy}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(claim_of(&registry, "alice").is_none(), "{policy}");
        }
        // The same process comes back to what it holds.
        let (lost, back) = (people.session("alice", "laptop", 1), people.session("alice", "laptop", 1));
        drop(registry.claims(&lost, 1, kept("hold:3s", None)).unwrap());
        let again = registry.claims(&back, 1, kept("hold:3s", None)).unwrap();
        assert!(again.joined && claim_of(&registry, "alice").unwrap().lane(&[]).is_some());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(claim_of(&registry, "alice").is_some(), "a claim that is held again was taken out");
        stop.cancel();
    };
    tokio::join!(expiring, story);
}

#[tokio::test(start_paused = true)]
async fn a_claim_ends_when_its_time_is_over_and_its_client_is_told() {
    let (people, registry) = (People::new(), registry());
    let stop = tokio_util::sync::CancellationToken::new();
    let expiring = registry.expire(stop.clone());
    let story = async {
        let alice = people.session("alice", "laptop", 1);
        let _claim = registry.claims(&alice, 9, kept("upstream", Some("10s"))).unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(claim_of(&registry, "alice").is_some());
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(claim_of(&registry, "alice").is_none());
        let told = alice.mail();
        assert!(
            matches!(told[..], [FromRelay::Denied { claim: 9, code: DeniedCode::Expired, .. }]),
            "{told:?}"
        );
        stop.cancel();
    };
    tokio::join!(expiring, story);
}

#[test]
fn the_earlier_claim_wins_on_every_replica_and_the_loser_is_told() {
    let (people, one, two) = (People::new(), replica("r1"), replica("r2"));
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let (alice2, bob2) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let mine = || intercept("a", "orders", "x-user=alice");
    let earlier = one.claims(&alice, 1, mine()).unwrap();
    let stamp = earlier.stamp.clone();
    // Bob comes first to the other replica, but later than Alice to any.
    std::thread::sleep(Duration::from_millis(5));
    let later = two.claims(&bob2, 3, intercept("b", "orders", "x-user=alice")).unwrap();
    let forged = Stamp { since: UnixMillis(1), ..stamp.clone() };
    let announced = |stamp| Announced { number: 1, intercept: mine(), stamp: Some(stamp) };
    assert!(matches!(two.register(&alice2, announced(forged)), Err(Refused::Conflict { .. })));
    let moved = two.register(&alice2, announced(stamp.clone())).unwrap();
    assert_eq!(moved.stamp, stamp);
    let told = bob2.mail();
    let [FromRelay::Denied { claim: 3, code: DeniedCode::Conflict, holder: Some(holder), .. }] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(holder.owner, "alice");
    // And the other way round.
    let announced = Announced {
        number: 1,
        intercept: intercept("b", "orders", "x-user=alice"),
        stamp: Some(later.stamp.clone()),
    };
    assert!(matches!(one.register(&bob, announced), Err(Refused::Conflict { .. })));
}

#[test]
fn a_time_that_is_over_does_not_begin_anew_at_the_next_relay() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let intercept = kept("upstream", Some("1h"));
    let long_ago = SystemTime::now() - Duration::from_secs(3_601);
    let stamp = stamps("r9").stamp(&alice.identity.name, &intercept, long_ago, "r9");
    let late = registry.register(&alice, Announced { number: 1, intercept, stamp: Some(stamp) });
    assert!(matches!(late, Err(Refused::Expired)), "{late:?}");
}
