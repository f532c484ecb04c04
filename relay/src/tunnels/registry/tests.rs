//! Who holds what when developers come, come back, go, and get in each other's way.

use culvert_protocol::hello::DeniedCode;
use culvert_protocol::intercept::Matcher;
use culvert_protocol::message::{Fields, RequestHead};

use super::*;
use crate::tunnels::tests::dialer::{People, intercept};

fn registry() -> Arc<Registry> {
    let service = |name: &str, all_traffic| {
        (name.parse().unwrap(), vec!["127.0.0.1:8080".to_owned()], Terms { all_traffic })
    };
    Registry::new([service("orders", true), service("carts", false)], Gauge::default())
}

/// Whose session a request to `orders` with this header goes to.
fn goes_to(registry: &Registry, value: &str) -> Option<String> {
    let fields: Fields = [(&b"x-user"[..], value.as_bytes())].into_iter().collect();
    let request = RequestHead { fields, ..RequestHead::default() };
    let routes = registry.table(&"orders".parse().unwrap()).load_full();
    routes.pick(&request).map(|claim| claim.session.host.clone())
}

fn told(session: &Session, mail: &mut Option<tokio::sync::mpsc::Receiver<FromRelay>>) -> Vec<FromRelay> {
    let mailbox = mail.get_or_insert_with(|| session.mailbox().unwrap());
    std::iter::from_fn(|| mailbox.try_recv().ok()).collect()
}

#[test]
fn a_claim_is_in_force_for_as_long_as_its_guard() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let claim = registry.register(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
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
        let _claim = held.register(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
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
        let first = registry.register(&dead, 7, intercept(older.0, "orders", older.1)).unwrap();
        let second = registry.register(&back, 1, intercept(newer.0, "orders", newer.1)).unwrap();
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
    let mut mail = None;
    let told = told(&dead, &mut mail);
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
    let _first = registry.register(&first, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let _again = registry.register(&again, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    assert_eq!(told(&first, &mut None), []);
}

#[test]
fn somebody_elses_requests_are_theirs_and_the_refusal_names_them() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let _claim = registry.register(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let both = Intercept {
        matcher: Matcher::new(["x-user=alice".parse().unwrap(), "x-team=red".parse().unwrap()]).unwrap(),
        ..intercept("b", "orders", "x-user=alice")
    };
    for taken in [intercept("a", "orders", "x-user=alice"), both] {
        let refused = registry.register(&bob, 9, taken).unwrap_err();
        let FromRelay::Denied { claim: 9, code: DeniedCode::Conflict, message, holder: Some(holder) } =
            refused.denial(9)
        else {
            panic!("{refused:?}")
        };
        assert_eq!(message, "alice on laptop holds x-user=alice already");
        assert_eq!((holder.owner.as_str(), holder.host.as_str()), ("alice", "laptop"));
    }
    let _other_value = registry.register(&bob, 1, intercept("b", "orders", "x-user=bob")).unwrap();
    let _other_service = registry.register(&bob, 2, intercept("c", "carts", "x-user=alice")).unwrap();
}

#[test]
fn all_traffic_is_what_others_leave_over_and_one_persons_only() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let _all = registry.register(&alice, 1, intercept("all", "orders", "")).unwrap();
    let _some = registry.register(&bob, 1, intercept("some", "orders", "x-user=bob")).unwrap();
    assert_eq!(goes_to(&registry, "bob").as_deref(), Some("desk"));
    assert_eq!(goes_to(&registry, "anybody").as_deref(), Some("laptop"));
    let refused = registry.register(&bob, 2, intercept("all", "orders", "")).unwrap_err();
    assert!(matches!(refused, Refused::Conflict { .. }), "{refused:?}");

    let refused = registry.register(&bob, 3, intercept("all", "carts", "")).unwrap_err();
    assert!(refused.to_string().contains("may not take all traffic of carts"), "{refused}");
    assert!(refused.to_string().ends_with("(rule all-traffic)"), "{refused}");
}

#[test]
fn coming_back_does_not_change_who_wins() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let one = registry.register(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let team = |value: &str| format!("x-team={value}");
    let _other = registry.register(&bob, 1, intercept("b", "orders", &team("red"))).unwrap();
    let fields: Fields = [(&b"x-user"[..], &b"alice"[..]), (b"x-team", b"red")].into_iter().collect();
    let request = RequestHead { fields, ..RequestHead::default() };
    let winner = || {
        let routes = registry.table(&"orders".parse().unwrap()).load_full();
        routes.pick(&request).map(|claim| (claim.session.host.clone(), claim.since))
    };
    let (host, since) = winner().unwrap();
    assert_eq!(host, "laptop", "the older of two equally specific claims");
    let back = people.session("alice", "laptop", 3);
    let _again = registry.register(&back, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    drop(one);
    assert_eq!(winner(), Some((host, since)));
}

#[test]
fn a_service_that_is_not_here_is_named_with_the_one_that_was_meant() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop", 1);
    let said = |service: &str| {
        registry.register(&alice, 1, intercept("a", service, "x-user=alice")).unwrap_err().to_string()
    };
    assert_eq!(said("order"), "no service `order` here: did you mean `orders`?");
    assert_eq!(said("billing"), "no service `billing` here: there is carts, orders");
}

#[test]
fn one_person_cannot_fill_the_relay() {
    let (people, registry) = (People::new(), registry());
    let (alice, bob) = (people.session("alice", "laptop", 1), people.session("bob", "desk", 2));
    let claim = |session, n: u64| {
        registry.register(session, n, intercept(&format!("n{n}"), "orders", &format!("x-user=u{n}")))
    };
    let mut held: Vec<_> = (0..200).map(|n| claim(&alice, n).unwrap()).collect();
    let refused = claim(&alice, 200).unwrap_err();
    assert!(matches!(refused.denial(200), FromRelay::Denied { code: DeniedCode::TooMany, .. }));
    let _others = claim(&bob, 300).unwrap();
    let _superseding_is_not_one_more = claim(&alice, 199).unwrap();
    held.truncate(10);
    let _room_again = claim(&alice, 200).unwrap();
}

#[test]
fn a_list_shows_who_holds_what() {
    let (people, registry) = (People::new(), registry());
    let alice = people.session("alice", "laptop\x1b[2J", 1);
    let _claim = registry.register(&alice, 1, intercept("a", "orders", "x-user=alice")).unwrap();
    let [FromRelay::Listing { services, intercepts, more: false }] = &registry.listing()[..] else {
        panic!()
    };
    assert_eq!(services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(), ["carts", "orders"]);
    let [listed] = &intercepts[..] else { panic!() };
    assert_eq!((listed.matcher.as_str(), listed.generation), ("x-user=alice", 1));
    assert_eq!((listed.holder.owner.as_str(), listed.holder.host.as_str()), ("alice", "laptop??2J"));
}
