use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;
use crate::intercept::{Intercept, Matcher};

fn read<T: Message>(value: &serde_json::Value) -> Result<T, HelloError> {
    decode(value.to_string().as_bytes())
}

fn claim() -> Intercept {
    Intercept {
        name: "alice".parse().expect("a name"),
        service: "orders".parse().expect("a name"),
        matcher: Matcher::header_exact("x-user", b"alice").expect("a matcher"),
        mode: Default::default(),
        on_unreachable: Default::default(),
        action: Default::default(),
        ttl: None,
    }
}

#[test]
fn the_newest_version_that_both_speak_is_spoken() {
    assert_eq!(negotiate(&[1]), Some(1));
    assert_eq!(negotiate(&[9, 1, 0]), Some(1));
    assert_eq!(negotiate(&[2]), None);
    assert_eq!(negotiate(&[]), None);
}

#[test]
fn a_message_of_a_newer_peer_is_survived() {
    let unknown = json!({"type": "renew", "csr": {"deep": [1, 2]}, "claim": "x"});
    assert!(
        matches!(read::<FromClient>(&json!({"type": "renew"})), Ok(FromClient::Unknown(kind)) if kind == "renew")
    );
    assert!(matches!(read::<FromRelay>(&json!({"type": "lease", "ms": 2000})), Ok(FromRelay::Unknown(_))));
    assert!(matches!(read::<ToJoiner>(&json!({"type": "later"})), Ok(ToJoiner::Unknown(_))));
    // Even where a field has another meaning than ours.
    assert!(matches!(read::<FromClient>(&unknown), Ok(FromClient::Unknown(_))));
    let long = json!({"type": "é".repeat(200)});
    assert!(matches!(read::<FromRelay>(&long), Ok(FromRelay::Unknown(kind)) if kind.len() <= 64));

    assert_eq!(
        read::<FromRelay>(&json!({"type": "pong", "n": 4, "lease_ms": 2000})).expect("a pong"),
        FromRelay::Pong { n: 4 }
    );
    assert!(matches!(
        read::<FromRelay>(&json!({"type": "denied", "claim": 1, "code": "full_moon", "message": "no"})),
        Ok(FromRelay::Denied { code: DeniedCode::Other, .. })
    ));
    assert!(matches!(
        read::<FromRelay>(&json!({"type": "reject", "code": "new", "message": "no", "versions": [2]})),
        Ok(FromRelay::Reject { code: RejectCode::Other, .. })
    ));
}

#[test]
fn a_claim_of_a_newer_client_is_answered_and_not_narrowed() {
    let announce = json!({"type": "announce", "claim": 3, "intercept": {
        "name": "a", "service": "b", "matcher": {"all": [{"moon": "full"}]}}});
    let Ok(FromClient::Unreadable { claim: 3, why }) = read(&announce) else { panic!("not unreadable") };
    assert!(why.contains("moon"), "{why}");
    // Without a number there is nothing that could be answered.
    assert!(matches!(
        read::<FromClient>(&json!({"type": "announce", "intercept": {}})),
        Err(HelloError::Content { .. })
    ));
}

#[test]
fn what_is_never_sent_cannot_be_said_by_a_peer() {
    assert!(encode(&FromClient::Unknown("x".to_owned())).is_err());
    for kind in ["unknown", "unreadable"] {
        assert!(matches!(
            read::<FromClient>(&json!({"type": kind, "claim": 1, "why": "x"})),
            Ok(FromClient::Unknown(_))
        ));
    }
}

#[test]
fn what_is_not_a_message_is_refused() {
    for text in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"{\"type\":1}",
        b"{\"type\":\"ping\"}",
        b"{\"type\":\"ping\",\"n\":-1}",
        b"{\"type\":\"ping\",\"n\":1} {}",
        b"{\"type\":\"ping\",\"type\":\"pong\",\"n\":1}",
    ] {
        decode::<FromClient>(text).expect_err(&text.escape_ascii().to_string());
    }
    let deep = "[".repeat(20_000);
    decode::<FromClient>(format!("{{\"type\":\"x\",\"y\":{deep}").as_bytes()).expect_err("a deep message");
}

#[test]
fn a_secret_is_not_shown() {
    let join = FromJoiner::Join(Join {
        token_id: "t1".to_owned(),
        secret: JoinSecret::new("canary".to_owned()),
        csr: "csr".to_owned(),
    });
    assert!(!format!("{join:?}").contains("canary"));
    let bytes = encode(&join).expect("a message");
    let Ok(FromJoiner::Join(read)) = decode(&bytes[4..]) else { panic!("no join") };
    assert_eq!((read.token_id.as_str(), read.secret.reveal(), read.csr.as_str()), ("t1", "canary", "csr"));
    // Nor in what is said about a message that could not be read.
    let fault = read_fault(&json!({"type": "join", "token_id": "t", "secret": ["canary"], "csr": ""}));
    assert!(!fault.contains("canary"), "{fault}");
}

fn read_fault(value: &serde_json::Value) -> String {
    let fault = read::<FromJoiner>(value).expect_err("a wrong message");
    format!("{fault} {fault:?}")
}

#[tokio::test]
async fn messages_arrive_in_order_and_the_end_between_them_is_an_end() {
    let said = [
        FromClient::Announce { claim: 1, intercept: Box::new(claim()), stamp: None },
        FromClient::Ping { n: 1 },
        FromClient::Withdraw { claim: 1 },
        FromClient::Leave,
    ];
    let mut bytes = Vec::new();
    for message in &said {
        write_message(&mut bytes, message).await.expect("a message");
    }
    let mut messages = Messages::new(&bytes[..]);
    for message in &said {
        assert_eq!(messages.next::<FromClient>().await.expect("a message").as_ref(), Some(message));
    }
    assert_eq!(messages.next::<FromClient>().await.expect("an end"), None);

    let mut messages = Messages::new(&bytes[..bytes.len() - 1]);
    for _ in 0..3 {
        messages.next::<FromClient>().await.expect("a message");
    }
    assert!(matches!(messages.next::<FromClient>().await, Err(HelloError::Cut)));
}

#[tokio::test]
async fn a_read_that_was_dropped_loses_nothing() {
    let (ours, mut theirs) = duplex(5);
    let mut messages = Messages::new(ours);
    let said: Vec<_> = (0..20).map(|n| FromRelay::Ping { n }).collect();
    let feed = async {
        for message in &said {
            write_message(&mut theirs, message).await.expect("a message");
        }
        theirs.shutdown().await.expect("a shutdown");
    };
    let mut got = Vec::new();
    let take = async {
        loop {
            tokio::select! {
                biased;
                next = messages.next::<FromRelay>() => match next.expect("a message") {
                    Some(message) => got.push(message),
                    None => break,
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::join!(feed, take);
    assert_eq!(got, said);
}

#[tokio::test]
async fn a_length_over_its_cap_is_refused_before_its_bytes_come() {
    for length in [16 * 1024 + 1, u32::MAX] {
        let bytes = length.to_be_bytes();
        assert!(matches!(
            Messages::new(&bytes[..]).next::<FromClient>().await,
            Err(HelloError::TooLong { cap: FIRST_MESSAGE_CAP, .. })
        ));
    }
    // The first message shows whether the peer is anybody; then there is more room.
    let ping = |length: usize| {
        let text = "{\"type\":\"ping\",\"n\":1}";
        let json = format!("{text}{}", " ".repeat(length - text.len()));
        [&prefix(length)[..], json.as_bytes()].concat()
    };
    let bytes = [ping(FIRST_MESSAGE_CAP), ping(MESSAGE_CAP), ping(MESSAGE_CAP + 1)].concat();
    let mut messages = Messages::new(&bytes[..]);
    for _ in 0..2 {
        assert_eq!(messages.next().await.expect("a message"), Some(FromClient::Ping { n: 1 }));
    }
    assert!(matches!(messages.next::<FromClient>().await, Err(HelloError::TooLong { cap: MESSAGE_CAP, .. })));
    // An HTTP request is a very long message.
    assert!(matches!(
        Messages::new(&b"GET / HTTP/1.1\r\n\r\n"[..]).next::<FromClient>().await,
        Err(HelloError::TooLong { .. })
    ));
}

#[test]
fn a_message_that_would_be_refused_is_not_sent() {
    let drain = FromRelay::Drain { grace_ms: 1, reason: "r".repeat(MESSAGE_CAP) };
    assert!(matches!(encode(&drain), Err(HelloError::TooLong { .. })));
}

#[test]
fn a_long_listing_is_told_in_parts() {
    let holder = Holder {
        owner: "alice".to_owned(),
        host: "laptop".to_owned(),
        since: UnixMillis(1),
        last_seen: UnixMillis(2),
    };
    let intercepts: Vec<_> = (0..2_000)
        .map(|at| ListedIntercept {
            name: format!("name {at}"),
            service: "orders".to_owned(),
            matcher: "x-user=\"alice\"".to_owned(),
            mode: "steal".to_owned(),
            on_unreachable: "upstream".to_owned(),
            generation: at,
            holder: holder.clone(),
            transports: vec!["quic".to_owned()],
            expires: Some(UnixMillis(at)),
        })
        .collect();
    let services: Vec<_> = (0..500)
        .map(|at| ListedService { name: format!("s{at}"), listen: vec!["0.0.0.0:8080".to_owned()] })
        .collect();
    let parts = listings(services.clone(), intercepts.clone());
    let mut got = (Vec::new(), Vec::new());
    for (at, part) in parts.iter().enumerate() {
        encode(part).expect("a part that can be sent");
        let FromRelay::Listing { services, intercepts, more } = part else { panic!("no listing") };
        assert_eq!(*more, at + 1 < parts.len());
        got.0.extend_from_slice(services);
        got.1.extend_from_slice(intercepts);
    }
    assert!(parts.len() > 2);
    assert!(got == (services, intercepts));
    assert!(matches!(&listings(Vec::new(), Vec::new())[..], [FromRelay::Listing { more: false, .. }]));
}

#[test]
fn a_message_is_written_as_the_protocol_says() {
    let accepted =
        FromRelay::Accepted { claim: 1, generation: 2, listen: vec!["a:1".to_owned()], stamp: None };
    let bytes = encode(&accepted).expect("a message");
    let json = br#"{"type":"accepted","claim":1,"generation":2,"listen":["a:1"]}"#;
    assert_eq!(bytes[..4], prefix(json.len()));
    assert_eq!(&bytes[4..], json);
    assert_eq!(&encode(&FromClient::List).expect("a message")[4..], br#"{"type":"list"}"#);
}

fn prefix(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a short message").to_be_bytes()
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn from_client() -> impl Strategy<Value = FromClient> {
    let hello = (
        prop::collection::vec(any::<u16>(), 0..4),
        text(),
        text(),
        prop::option::of(text()),
        any::<(u32, u128, Option<u64>)>(),
    )
        .prop_map(|(versions, client_version, host, user, (process, instance, tunnel))| {
            FromClient::Hello(Hello {
                versions,
                client_version,
                host,
                user,
                process,
                instance: InstanceId::new(instance),
                tunnel,
                began: None,
            })
        });
    prop_oneof![
        hello,
        (any::<u64>(), "[a-z]{1,20}", "[!-~]{0,20}").prop_map(|(claim, name, value)| {
            let intercept = Intercept {
                service: name.parse().expect("a name"),
                matcher: Matcher::header_exact("x", value.as_bytes()).expect("a matcher"),
                ..self::claim()
            };
            let since = UnixMillis(claim);
            let stamp = Stamp { since, relay: name, proof: value };
            FromClient::Announce {
                claim,
                intercept: Box::new(intercept),
                stamp: (claim % 2 == 0).then_some(stamp),
            }
        }),
        any::<u64>().prop_map(|claim| FromClient::Withdraw { claim }),
        Just(FromClient::List),
        any::<u64>().prop_map(|n| FromClient::Ping { n }),
        any::<u64>().prop_map(|n| FromClient::Pong { n }),
        prop::collection::vec(any::<u64>(), 0..4).prop_map(|tunnels| FromClient::Lost { tunnels }),
        Just(FromClient::Leave),
    ]
}

fn from_relay() -> impl Strategy<Value = FromRelay> {
    let holder = || {
        (text(), text(), any::<(u64, u64)>()).prop_map(|(owner, host, (since, seen))| Holder {
            owner,
            host,
            since: UnixMillis(since),
            last_seen: UnixMillis(seen),
        })
    };
    prop_oneof![
        (any::<(u16, u32)>(), text(), text(), prop::option::of(text())).prop_map(
            |((version, replicas), relay, identity, cluster)| {
                FromRelay::Welcome(Welcome { version, relay, replicas, identity, cluster, began: None })
            }
        ),
        (text(), prop::collection::vec(any::<u16>(), 0..4)).prop_map(|(message, versions)| {
            FromRelay::Reject { code: RejectCode::Version, message, versions }
        }),
        (any::<(u64, u64)>(), prop::collection::vec(text(), 0..3)).prop_map(
            |((claim, generation), listen)| {
                FromRelay::Accepted { claim, generation, listen, stamp: None }
            }
        ),
        (any::<u64>(), text(), prop::option::of(holder())).prop_map(|(claim, message, holder)| {
            FromRelay::Denied { claim, code: DeniedCode::NoSuchService, message, holder }
        }),
        (any::<u64>(), holder()).prop_map(|(claim, by)| FromRelay::Superseded { claim, by }),
        (any::<u64>(), text()).prop_map(|(grace_ms, reason)| FromRelay::Drain { grace_ms, reason }),
        any::<u64>().prop_map(|n| FromRelay::Ping { n }),
        any::<u64>().prop_map(|n| FromRelay::Pong { n }),
        (text(), text()).prop_map(|(name, listen)| FromRelay::Listing {
            services: vec![ListedService { name, listen: vec![listen] }],
            intercepts: Vec::new(),
            more: true,
        }),
    ]
}

/// What arrives of a message, having checked that its type is one that is known by name.
fn round<T: Message>(message: &T) -> T {
    let bytes = encode(message).expect("a message");
    let value: serde_json::Value = serde_json::from_slice(&bytes[4..]).expect("json");
    assert!(T::TYPES.contains(&value["type"].as_str().expect("a type")), "{value}");
    decode(&bytes[4..]).expect("a message")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_client_is_heard_as_it_spoke(message in from_client()) {
        prop_assert_eq!(round(&message), message);
    }

    #[test]
    fn a_relay_is_heard_as_it_spoke(message in from_relay()) {
        prop_assert_eq!(round(&message), message);
    }

    #[test]
    fn an_enrolment_is_heard_as_it_was_spoken(texts in any::<[String; 4]>(), names in any::<Vec<String>>()) {
        let [certificate, authority, name, id] = texts;
        let relay = RelayInformation { id, names };
        let joined = ToJoiner::Joined(Joined { certificate, authority, name: name.clone(), relay });
        prop_assert_eq!(round(&joined), joined);
        let refused = ToJoiner::Refused { code: RefusedCode::Denied, message: name };
        prop_assert_eq!(round(&refused), refused);
    }

    #[test]
    fn arbitrary_bytes_are_a_message_or_an_error(
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "\\{\"type\":\"(hello|announce|ping|join|denied|x)\"(,\"(claim|n|code)\":([0-9]{1,3}|\"x\"|\\{\\}))?\\}"
                .prop_map(String::into_bytes),
        ]
    ) {
        decode::<FromClient>(&text).ok();
        decode::<FromRelay>(&text).ok();
        decode::<FromJoiner>(&text).ok();
        decode::<ToJoiner>(&text).ok();
    }
}
