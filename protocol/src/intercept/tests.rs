use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parsed(text: &str) -> Condition {
    text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn refused(text: &[u8]) -> String {
    Condition::parse(text).expect_err("a match that means something else").to_string()
}

#[test]
fn a_match_is_written_as_an_argument_or_as_curl_takes_it() {
    let alice = Matcher::header_exact("X-User", b"alice").expect("a matcher");
    for text in
        ["x-user=alice", "X-User: alice", "x-user:alice", "x-user:  alice \t", "x-user=base64:YWxpY2U="]
    {
        assert_eq!(Matcher::new([parsed(text)]), Ok(alice.clone()), "{text}");
    }
    assert_eq!(alice.to_string(), "x-user=alice");
    assert_eq!(Matcher::all_traffic().to_string(), "all traffic");
    assert_eq!(parsed("x=a=b:c").to_string(), "x=a=b:c");
    assert_eq!(parsed("x=").to_string(), "x=");
}

#[test]
fn a_match_that_only_a_later_version_knows_is_refused_and_not_taken_literally() {
    for (text, what) in [
        ("x-user=~^a.*", "a pattern"),
        ("x-user^=al", "a prefix"),
        ("x-user", "the presence of a header"),
        ("!x-bot", "the absence of a header"),
    ] {
        let fault = refused(text.as_bytes());
        assert!(fault.contains(what) && fault.contains("x-user=alice"), "{fault}");
    }
}

#[test]
fn a_match_that_is_none_is_refused_with_an_example() {
    for text in [&b""[..], b"=alice", b": alice", b"x user", b"\xff", b"\xff=a", b"x\xff"] {
        assert!(refused(text).contains("x-user"), "{}", text.escape_ascii());
    }
    assert!(refused(b"x user=a").contains("not a header's name"));
    assert!(refused(b"x-user= alice").contains("white space"));
    assert!(refused(b"x-user=a\r\nb").contains("control byte"));
    assert!(refused(b"x-user=base64:?").contains("base64"));
    assert!(refused(b"Connection: close").contains("one connection"));
    assert!(refused(b"culvert-route=a").contains("relay's own"));
    // What an error repeats cannot drive a terminal.
    assert!(!refused(b"\x1b[2J").contains('\x1b'));
    assert!(refused(&[b'('; 5000]).len() < 300);
}

#[test]
fn a_value_that_a_terminal_would_not_show_is_written_in_base64() {
    for value in [&b"\xff\xfe"[..], b"a\tb", "a\u{9b}2J".as_bytes(), "a\u{202e}b".as_bytes(), b"base64:x"] {
        let matcher = Matcher::header_exact("x", value).expect("a matcher");
        let text = matcher.to_string();
        assert!(text.starts_with("x=base64:"), "{text}");
        assert_eq!(Matcher::new([parsed(&text)]), Ok(matcher));
    }
    assert_eq!(parsed("x: ~a").to_string(), "x: ~a");
}

#[test]
fn several_conditions_are_written_for_a_shell() {
    let matcher = Matcher::new([parsed("b: it's two"), parsed("a=1")]).expect("a matcher");
    assert_eq!(matcher.to_string(), r"a=1 'b=it'\''s two'");
}

#[test]
fn equal_claims_are_equal_in_whatever_order_they_were_written() {
    let one = Matcher::new([parsed("x=1"), parsed("y=2"), parsed("X: 1")]).expect("a matcher");
    let other = Matcher::new([parsed("y=2"), parsed("x=1")]).expect("a matcher");
    assert_eq!(one, other);
    assert_eq!(one.conditions().len(), 2);
}

#[test]
fn fewer_conditions_cover_more() {
    let all = Matcher::all_traffic();
    let x = Matcher::new([parsed("x=1")]).expect("a matcher");
    let y = Matcher::new([parsed("y=1")]).expect("a matcher");
    let both = Matcher::new([parsed("x=1"), parsed("y=1")]).expect("a matcher");
    assert!(all.covers(&both) && x.covers(&both) && y.covers(&both) && x.covers(&x));
    assert!(!both.covers(&x) && !x.covers(&y) && !x.covers(&all));
}

#[test]
fn a_match_is_bounded_at_its_caps() {
    let many = |count: usize| Matcher::new((0..count).map(|at| parsed(&format!("x{at}=1"))));
    assert!(many(CONDITIONS_CAP).is_ok());
    assert_eq!(many(CONDITIONS_CAP + 1), Err(MatchError::Many(CONDITIONS_CAP + 1)));
    let long = |length: usize| Matcher::header_exact("x", &vec![b'v'; length - 2]);
    assert!(long(MATCHER_TEXT_CAP).is_ok());
    assert_eq!(long(MATCHER_TEXT_CAP + 1), Err(MatchError::Long(MATCHER_TEXT_CAP + 1)));
}

#[test]
fn a_claim_reads_as_it_is_written_in_json() {
    let text = json!({
        "name": "alice's orders",
        "service": "orders",
        "matcher": {"all": [{"header": {"name": "x-user", "exact": "alice"}}]},
        "mode": "steal",
        "on_unreachable": "hold:10s",
        "action": "tunnel",
    });
    let claim: Intercept = serde_json::from_value(text.clone()).expect("a claim");
    assert_eq!(claim.matcher, Matcher::header_exact("x-user", b"alice").expect("a matcher"));
    assert_eq!(serde_json::to_value(&claim).expect("json"), text);

    let short: Intercept =
        serde_json::from_value(json!({"name": "a", "service": "b", "matcher": {"all": []}}))
            .expect("a claim");
    assert!(short.matcher.is_all_traffic());
    assert_eq!((short.mode, short.on_unreachable), (Mode::Steal, OnUnreachable::Upstream));
    let bytes: FieldValue = serde_json::from_value(json!({"base64": "/w=="})).expect("a value");
    assert_eq!(bytes.as_bytes(), b"\xff");
}

#[test]
fn a_claim_that_is_not_understood_whole_is_refused() {
    let header = json!({"header": {"name": "x-user", "exact": "alice"}});
    for (claim, why) in [
        (json!({"name": "a", "service": "b"}), "missing field `matcher`"),
        (json!({"name": "a", "service": "b", "matcher": {}}), "missing field `all`"),
        (json!({"name": "a", "service": "b", "matcher": {"all": [], "any": []}}), "unknown field `any`"),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": [{"moon": "full"}]}}),
            "unknown variant `moon`",
        ),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": [{"header": {"name": "x", "prefix": "a"}}]}}),
            "unknown field `prefix`",
        ),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": [
                {"header": {"name": "x", "exact": "a", "invert": true}}]}}),
            "unknown field `invert`",
        ),
        (json!({"name": "a", "service": "b", "matcher": {"all": [header]}, "mode": "mirror"}), "`mirror`"),
        (json!({"name": "a", "service": "b", "matcher": {"all": []}, "tags": []}), "unknown field `tags`"),
        (json!({"name": "a", "service": "B", "matcher": {"all": []}}), "not a service's name"),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": []}, "on_unreachable": "hold"}),
            "not a fail policy",
        ),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": [{"header": {"name": "x", "exact": 1}}]}}),
            "is a string, or",
        ),
        (
            json!({"name": "a", "service": "b", "matcher": {"all": [{"header": {"name": "x", "exact": "a\r\n"}}]}}),
            "control byte",
        ),
    ] {
        let fault = serde_json::from_value::<Intercept>(claim).expect_err(why).to_string();
        assert!(fault.contains(why), "{fault} does not say {why}");
    }
}

#[test]
fn names_are_what_they_may_be() {
    for good in ["a", "orders", "orders.shop", "a-1.b-2", &"a".repeat(63)] {
        assert!(good.parse::<ServiceName>().is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", ".a", "a.", "A", "a_b", "a/b", "a\0", "é", &"a".repeat(64)] {
        assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
    }
    for good in ["a", "Alice's orders", "büro", &"a".repeat(128)] {
        assert!(good.parse::<InterceptName>().is_ok(), "{good}");
    }
    for bad in ["", " a", "a ", "a\nb", "a\u{1b}[2J", "a\u{202e}b", &"a".repeat(129)] {
        assert!(bad.parse::<InterceptName>().is_err(), "{bad}");
    }
    assert_eq!("X-User".parse::<FieldName>().expect("a name").as_str(), "x-user");
    for bad in ["", "a b", "a:", "!a", "a^", "a\n", "é", "te", "Transfer-Encoding", "Culvert-Via"] {
        assert!(bad.parse::<FieldName>().is_err(), "{bad}");
    }
}

#[test]
fn a_fail_policy_reads_as_it_is_written() {
    for text in ["upstream", "503", "hold:10s", "hold:500ms", "hold:300s"] {
        assert_eq!(text.parse::<OnUnreachable>().expect("a policy").to_string(), text);
    }
    assert_eq!("hold:2m".parse::<OnUnreachable>().expect("a policy").to_string(), "hold:120s");
    for bad in [
        "",
        "Upstream",
        "hold",
        "hold:",
        "hold:0s",
        "hold:10",
        "hold:s",
        "hold:-1s",
        "hold:301s",
        "hold:6m",
        "hold:1h",
        "hold:99999999999999999999s",
        "hold:18446744073709551615m",
        "hold:1.5s",
        "hold:é",
        "404",
    ] {
        assert!(bad.parse::<OnUnreachable>().is_err(), "{bad}");
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    let value = prop_oneof![
        "[ -~]{0,20}".prop_map(String::into_bytes),
        "\\PC{0,10}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    ("[a-z0-9_-]([a-zA-Z0-9!#$%&'*+.^`|~-]{0,8}[A-Za-z0-9_-])?", value).prop_filter_map(
        "a header that can be claimed",
        |(name, value)| {
            Some(Condition::Header { name: name.parse().ok()?, exact: FieldValue::new(&value).ok()? })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_condition_is_read_as_it_was_written(condition in condition()) {
        prop_assert_eq!(Condition::parse(condition.to_string().as_bytes()), Ok(condition.clone()));
        let json = serde_json::to_vec(&condition).expect("json");
        prop_assert_eq!(serde_json::from_slice::<Condition>(&json).expect("a condition"), condition);
    }

    #[test]
    fn a_matcher_is_read_as_it_was_written(conditions in prop::collection::vec(condition(), 0..8)) {
        let matcher = Matcher::new(conditions.iter().cloned()).expect("a matcher under its caps");
        let json = serde_json::to_vec(&matcher).expect("json");
        prop_assert_eq!(&serde_json::from_slice::<Matcher>(&json).expect("a matcher"), &matcher);
        prop_assert_eq!(&Matcher::new(conditions.into_iter().rev()).expect("a matcher"), &matcher);
        prop_assert!(Matcher::all_traffic().covers(&matcher) && matcher.covers(&matcher));
    }

    #[test]
    fn a_patience_is_read_as_it_was_written(milliseconds in 1u64..=300_000) {
        let patience = Patience::new(Duration::from_millis(milliseconds)).expect("a patience");
        prop_assert_eq!(patience.to_string().parse(), Ok(patience));
    }

    #[test]
    fn an_arbitrary_match_is_a_condition_or_an_error(
        text in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "\\PC{0,20}".prop_map(String::into_bytes)]
    ) {
        if let Ok(condition) = Condition::parse(&text) {
            prop_assert_eq!(Condition::parse(condition.to_string().as_bytes()), Ok(condition));
        }
    }
}

#[test]
fn a_time_to_live_is_written_in_its_largest_unit() {
    for (text, shown) in
        [("90s", "90s"), ("120s", "2m"), ("8h", "8h"), ("1440m", "1d"), ("30d", "30d"), ("1s", "1s")]
    {
        assert_eq!(text.parse::<Ttl>().expect(text).to_string(), shown);
    }
    for text in ["", "0s", "31d", "5", "h", "-1h", "1w", "99999999999999999999d", "18446744073709551615d"] {
        text.parse::<Ttl>().expect_err(text);
    }
    assert!(serde_json::from_value::<Ttl>(json!("8h")).is_ok_and(|ttl| ttl.duration().as_secs() == 28_800));
}
