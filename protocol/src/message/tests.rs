//! What heads and fields keep, and what of them is refused.

use super::grammar::parse_length;
use super::*;

fn fields(lines: &[(&str, &str)]) -> Fields {
    lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

#[test]
fn fields_keep_order_spelling_and_repetition() {
    let fields = fields(&[("Set-Cookie", "a"), ("X-Empty", ""), ("set-cookie", "b")]);
    let lines: Vec<_> = fields.iter().collect();
    assert_eq!(lines, [(&b"Set-Cookie"[..], &b"a"[..]), (b"X-Empty", b""), (b"set-cookie", b"b")]);
    assert_eq!(fields.all("SET-COOKIE").collect::<Vec<_>>(), [b"a", b"b"]);
}

#[test]
fn connection_cannot_name_away_what_decides() {
    let mut head = RequestHead {
        fields: fields(&[
            ("Host", "a"),
            ("X-User", "alice"),
            ("X-Hop", "1"),
            ("X-Forwarded-For", "::1"),
            ("Culvert-Route", "x"),
        ]),
        nominated: b"close, host , x-user,X-HOP, x-forwarded-for, culvert-route".to_vec(),
        ..RequestHead::default()
    };
    head.strip_nominated(|name| name.eq_ignore_ascii_case(b"x-user"));
    assert_eq!(
        head.fields,
        fields(&[
            ("Host", "a"),
            ("X-User", "alice"),
            ("X-Hop", "1"),
            ("X-Forwarded-For", "::1"),
            ("Culvert-Route", "x")
        ])
        .iter()
        .filter(|(name, _)| *name != b"X-Hop")
        .collect::<Fields>()
    );
}

#[test]
fn a_host_is_a_name_or_an_address_and_maybe_a_port() {
    for good in ["a", "a.test:80", "127.0.0.1:1", "[::1]", "[::1]:8080", "a_b.test", "a:"] {
        assert!(is_host(good.as_bytes()), "{good}");
    }
    for bad in ["", ":80", "a/b", "u@a", "a, b", "a b", "[::1", "a:b", "a:123456", "[]", "a\0"] {
        assert!(!is_host(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_length_is_digits_and_nothing_else() {
    assert_eq!(parse_length(b"0"), Some(0));
    assert_eq!(parse_length(b"10"), Some(10));
    assert_eq!(parse_length(b"9223372036854775807"), Some(9_223_372_036_854_775_807));
    for bad in [
        "",
        "+5",
        "-5",
        "5 ",
        " 5",
        "0x5",
        "0_5",
        "5,5",
        "5.0",
        "5 5",
        "\u{a0}5",
        "\u{665}",
        "00",
        "05",
        "9223372036854775808",
        "9999999999999999999",
        "18446744073709551621",
        "00000000000000000005",
    ] {
        assert_eq!(parse_length(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn a_head_made_of_parts_is_refused_when_it_would_say_something_else() {
    let good = RequestHead {
        method: b"GET".to_vec(),
        target: b"/a?b=%2F//;|".to_vec(),
        fields: fields(&[("host", "a"), ("x", "caf\u{e9}")]),
        ..RequestHead::default()
    };
    assert_eq!(good.check(), Ok(()));
    let with = |change: &dyn Fn(&mut RequestHead)| {
        let mut head = good.clone();
        change(&mut head);
        head.check()
    };
    assert_eq!(with(&|head| head.method = b"GET /x".to_vec()), Err(Malformed::Method));
    assert_eq!(with(&|head| head.method = b"CONNECT".to_vec()), Err(Malformed::Connect));
    assert_eq!(with(&|head| head.target = b"/a b".to_vec()), Err(Malformed::Target));
    assert_eq!(with(&|head| head.target = b"/a\r\nx".to_vec()), Err(Malformed::Target));
    assert_eq!(with(&|head| head.fields.push(b"a b", b"")), Err(Malformed::Name));
    assert_eq!(with(&|head| head.fields.push(b"a", b"b\r\nc: d")), Err(Malformed::Value));
    assert_eq!(with(&|head| head.fields.push(b"Transfer-Encoding", b"chunked")), Err(Malformed::HopByHop));
    assert_eq!(with(&|head| head.fields.push(b"host", b"b")), Err(Malformed::Host));
    assert_eq!(with(&|head| head.body = Body::Exact(3)), Err(Malformed::ContentLength));
}
