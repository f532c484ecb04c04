use proptest::prelude::*;

use super::*;

fn request() -> RequestHead {
    RequestHead {
        method: b"PATCH".to_vec(),
        target: b"/%2F//;a?b=|".to_vec(),
        fields: [(&b"Host"[..], &b"a.test"[..]), (b"X-Empty", b""), (b"x-empty", b"\xff\x80")]
            .into_iter()
            .collect(),
        ..RequestHead::default()
    }
}

fn opening(claim: u64, peer: Option<&str>) -> Opening<'_> {
    Opening::Http { claim, peer, confirm: false }
}

fn encoded(request: &RequestHead) -> Vec<u8> {
    let mut payload = Vec::new();
    encode_opening(opening(1, None), request, &mut payload).expect("a head that can be encoded");
    payload
}

fn decoded(payload: &[u8]) -> Result<RequestHead, WireError> {
    let mut request = RequestHead::default();
    decode_opening(payload, &mut request).map(|_| request)
}

#[test]
fn a_head_is_replaced_by_the_next_and_not_added_to() {
    let mut head = RequestHead {
        method: b"POST".to_vec(),
        upgrade: b"websocket".to_vec(),
        nominated: b"x".to_vec(),
        keep_alive: true,
        expects_continue: true,
        ..request()
    };
    decode_opening(&encoded(&request()), &mut head).expect("an opening");
    assert_eq!(head, request());
}

#[test]
fn what_concerned_the_callers_connection_does_not_travel() {
    let head = RequestHead { keep_alive: true, nominated: b"x-hop".to_vec(), ..request() };
    assert_eq!(decoded(&encoded(&head)), Ok(request()));
}

#[test]
fn a_head_that_would_say_something_else_in_http_is_refused() {
    let wrong = |change: &dyn Fn(&mut RequestHead)| {
        let mut head = request();
        change(&mut head);
        decoded(&encoded(&head))
    };
    let malformed = |fault| Err(WireError::Malformed(fault));
    assert_eq!(wrong(&|head| head.method = b"GET /".to_vec()), malformed(Malformed::Method));
    assert_eq!(wrong(&|head| head.target = b"/ HTTP/1.1\r\nx: y".to_vec()), malformed(Malformed::Target));
    assert_eq!(wrong(&|head| head.fields.push(b"x", b"\r\ny: z")), malformed(Malformed::Value));
    assert_eq!(wrong(&|head| head.fields.push(b"x\n", b"")), malformed(Malformed::Name));
    assert_eq!(wrong(&|head| head.fields.push(b"te", b"trailers")), malformed(Malformed::HopByHop));
    assert_eq!(wrong(&|head| head.fields.push(b"HOST", b"b")), malformed(Malformed::Host));
    assert_eq!(wrong(&|head| head.body = Body::Exact(1)), malformed(Malformed::ContentLength));
    assert_eq!(wrong(&|head| head.upgrade = b"a\nb".to_vec()), malformed(Malformed::Upgrade));
}

#[test]
fn nothing_may_follow_and_nothing_may_be_missing() {
    let payload = encoded(&request());
    for short in 0..payload.len() {
        assert_eq!(decoded(&payload[..short]), Err(WireError::Truncated), "{short}");
    }
    assert_eq!(decoded(&[&payload[..], b"x"].concat()), Err(WireError::Trailing));
}

#[test]
fn an_opening_of_another_kind_is_refused_cleanly() {
    for tag in [0, 2, 3, 255] {
        let mut payload = encoded(&request());
        payload[0] = tag;
        assert_eq!(decoded(&payload), Err(WireError::Unknown { what: "the kind of opening", value: tag }));
    }
    let fault = decoded(&[2]).expect_err("raw TCP is not spoken");
    assert_eq!(fault.to_string(), "the kind of opening 2 is not known");
}

#[test]
fn a_flag_that_is_not_known_is_refused() {
    let mut payload = encoded(&request());
    payload[11] = 8;
    assert_eq!(decoded(&payload), Err(WireError::Unknown { what: "a request with the flags", value: 8 }));
}

#[test]
fn fields_are_counted_at_the_cap_and_over_it() {
    let mut head = request();
    while head.fields.len() < FIELDS_CAP {
        head.fields.push(b"x", b"");
    }
    assert_eq!(decoded(&encoded(&head)), Ok(head.clone()));
    head.fields.push(b"x", b"");
    let count = head.fields.len() as u64;
    let mut payload = Vec::new();
    assert_eq!(encode_opening(opening(1, None), &head, &mut payload), Err(WireError::Fields(count)));
    // A peer that does not count for itself.
    let mut trailers = Vec::new();
    varint::encode(varint::MAX, &mut trailers);
    assert_eq!(decode_trailers(&trailers, &mut Fields::default()), Err(WireError::Fields(varint::MAX)));
}

#[test]
fn the_largest_head_of_a_caller_fits_with_what_is_added_to_it() {
    let mut head = request();
    head.target = [b"/", &vec![b'a'; 16 * 1024 - 1][..]].concat();
    for _ in 0..99 {
        head.fields.push(b"x-some-name", &[b'v'; 480]);
    }
    assert!(
        head.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + head.target.len()
            > 63 * 1024
    );
    assert!(encoded(&head).len() < crate::frame::HEAD_CAP - 32 * 1024);
}

#[test]
fn the_callers_address_is_bounded_and_cannot_drive_a_terminal() {
    let mut payload = Vec::new();
    for good in ["[2001:db8::1%eth0]:65535", &"a".repeat(PEER_CAP)] {
        payload.clear();
        encode_opening(opening(u64::MAX, Some(good)), &request(), &mut payload).expect("an address");
        assert_eq!(decode_opening(&payload, &mut RequestHead::default()), Ok(opening(u64::MAX, Some(good))));
    }
    for bad in ["a b", "a\u{1b}[2J", "é", &"a".repeat(PEER_CAP + 1)] {
        assert_eq!(encode_opening(opening(1, Some(bad)), &request(), &mut Vec::new()), Err(WireError::Peer));
    }
    payload.clear();
    encode_opening(opening(1, Some("a")), &request(), &mut payload).expect("an address");
    payload[10] = 0x1b;
    assert_eq!(decoded(&payload), Err(WireError::Peer));
}

#[test]
fn a_status_stands_in_its_own_frame_and_in_no_other() {
    type Pair = (
        fn(&ResponseHead, &mut Vec<u8>) -> Result<(), WireError>,
        fn(&[u8], &mut ResponseHead) -> Result<(), WireError>,
        fn(u16) -> bool,
    );
    let pairs: [Pair; 3] = [
        (encode_response, decode_response, is_final),
        (encode_inform, decode_inform, is_informational),
        (encode_upgraded, decode_upgraded, is_upgraded),
    ];
    for status in [0, 99, 100, 101, 102, 103, 199, 200, 204, 404, 599, 600, u16::MAX] {
        let response = ResponseHead { status, ..ResponseHead::default() };
        for (encode, decode, fits) in pairs {
            let mut payload = Vec::new();
            let written = encode(&response, &mut payload);
            assert_eq!(written.is_ok(), fits(status), "{status}");
            if written.is_ok() {
                let mut read = ResponseHead::default();
                assert_eq!(decode(&payload, &mut read), Ok(()));
                for (_, other, fits) in pairs {
                    if !fits(status) {
                        assert_eq!(other(&payload, &mut read), Err(WireError::Status(status)));
                    }
                }
            }
        }
    }
}

#[test]
fn trailers_are_fields_and_nothing_else() {
    let trailers: Fields = [(&b"Grpc-Status"[..], &b"0"[..]), (b"x", b"caf\xc3\xa9")].into_iter().collect();
    let mut payload = Vec::new();
    encode_trailers(&trailers, &mut payload).expect("trailers");
    let mut read: Fields = [(&b"old"[..], &b""[..])].into_iter().collect();
    assert_eq!(decode_trailers(&payload, &mut read), Ok(()));
    assert_eq!(read, trailers);
    assert_eq!(decode_trailers(b"", &mut read), Ok(()));
    assert!(read.is_empty());
    for (name, value, fault) in [
        (&b"a b"[..], &b""[..], Malformed::Name),
        (b"", b"", Malformed::Name),
        (b"a", b"\r\nb: c", Malformed::Value),
    ] {
        let mut payload = Vec::new();
        encode_trailers(&[(name, value)].into_iter().collect(), &mut payload).expect("lines");
        assert_eq!(decode_trailers(&payload, &mut read), Err(WireError::Malformed(fault)));
    }
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"abcXYZ019!#$%&'*+-.^_`|~".as_slice()), 1..20)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80u8..], 0..300)
}

fn version_of() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::Http10), Just(Version::Http11), Just(Version::Http2)]
}

/// Fields as any checked head may have them, and the body that they go with.
fn fields_and_body() -> impl Strategy<Value = (Fields, Body)> {
    let body = prop_oneof![
        Just(Body::Empty),
        (0..=i64::MAX.unsigned_abs()).prop_map(Body::Exact),
        Just(Body::Streamed)
    ];
    (prop::collection::vec((token(), value()), 0..12), body, any::<prop::sample::Index>()).prop_map(
        |(mut lines, body, at)| {
            lines.retain(|(name, _)| !crate::message::is_hop_by_hop(name));
            if let Body::Exact(length) = body {
                let at = at.index(lines.len() + 1);
                lines.insert(at, (b"Content-Length".to_vec(), length.to_string().into_bytes()));
            }
            (lines.iter().map(|(name, value)| (&name[..], &value[..])).collect(), body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_request_arrives_as_it_was_sent(
        (mut fields, body) in fields_and_body(),
        version in version_of(),
        method in token(),
        target in "/[!-\"$-~]{0,40}",
        upgrade in "([a-z]{1,9}(/[0-9])?)?",
        flags in any::<[bool; 3]>(),
        claim in any::<u64>(),
        peer in prop::option::of("[!-~]{1,64}"),
    ) {
        fields.push(b"hOst", b"[::1]:80");
        let request = RequestHead {
            version, method, target: target.into_bytes(), fields, body, upgrade: upgrade.into_bytes(),
            expects_continue: flags[0], takes_trailers: flags[1], keep_alive: false, nominated: Vec::new(),
        };
        prop_assert_eq!(request.check(), Ok(()));
        let mut payload = Vec::new();
        let opening = Opening::Http { claim, peer: peer.as_deref(), confirm: flags[2] };
        encode_opening(opening, &request, &mut payload).expect("a head");
        let mut read = RequestHead::default();
        prop_assert_eq!(decode_opening(&payload, &mut read), Ok(opening));
        prop_assert_eq!(read, request);
    }

    #[test]
    fn a_response_arrives_as_it_was_sent(
        (fields, body) in fields_and_body(),
        version in version_of(),
        status in 100u16..600,
        reason in value(),
        upgrade in "([a-z]{1,9})?",
    ) {
        prop_assume!(body == Body::Empty || !matches!(status, 100..=199 | 204 | 304));
        let response = ResponseHead {
            version, status, reason, fields, body, upgrade: upgrade.into_bytes(), keep_alive: false,
        };
        prop_assert_eq!(response.check(), Ok(()));
        let mut payload = Vec::new();
        let mut read = ResponseHead::default();
        let result = match status {
            101 => encode_upgraded(&response, &mut payload).and_then(|()| decode_upgraded(&payload, &mut read)),
            100..200 => encode_inform(&response, &mut payload).and_then(|()| decode_inform(&payload, &mut read)),
            _ => encode_response(&response, &mut payload).and_then(|()| decode_response(&payload, &mut read)),
        };
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(read, response);
    }

    #[test]
    fn arbitrary_bytes_are_a_checked_head_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut request = RequestHead::default();
        if decode_opening(&bytes, &mut request).is_ok() {
            prop_assert_eq!(request.check(), Ok(()));
        }
        let mut response = ResponseHead::default();
        for decode in [decode_response, decode_inform, decode_upgraded] {
            if decode(&bytes, &mut response).is_ok() {
                prop_assert_eq!(response.check(), Ok(()));
            }
        }
        decode_trailers(&bytes, &mut Fields::default()).ok();
    }

    #[test]
    fn a_damaged_head_is_a_checked_head_or_an_error(
        at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut payload = encoded(&request());
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Ok(head) = decoded(&payload) {
            prop_assert_eq!(head.check(), Ok(()));
        }
    }
}
