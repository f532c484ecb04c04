//! Any legal message, however it arrives and however often it is passed on, is the same; and any bytes are a message
//! that can only be read one way, or refused.

use proptest::prelude::*;

use super::*;

/// A legal request as it goes over a connection, and what it is.
#[derive(Clone, Debug)]
struct Legal {
    raw: Vec<u8>,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

fn name() -> impl Strategy<Value = String> {
    // None of these begins like a name that means something to the codec.
    "[xX][-][A-Za-z0-9!#$%&'*+.^`|~-]{1,12}".prop_filter("steers", |name| {
        !name.to_lowercase().starts_with("x-forwarded") && !name.eq_ignore_ascii_case("x-real-ip")
    })
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(prop_oneof![0x21u8..0x7f, 0x80u8..=0xff], 1..20),
        "[a-z][ \t][a-z]".prop_map(String::into_bytes),
    ]
}

fn lines(most: usize) -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    proptest::collection::vec((name(), value()), 0..most)
}

fn put(lines: &[(String, Vec<u8>)], raw: &mut Vec<u8>) {
    for (number, (name, value)) in lines.iter().enumerate() {
        raw.extend_from_slice(name.as_bytes());
        raw.extend_from_slice([&b":"[..], b": ", b":\t ", b":   "][number % 4]);
        raw.extend_from_slice(value);
        raw.extend_from_slice([&b"\r\n"[..], b" \r\n", b"\t\r\n"][number % 3]);
    }
}

#[derive(Clone, Debug)]
enum Framed {
    Empty,
    Exact,
    Chunks(Vec<usize>, Vec<(String, Vec<u8>)>),
}

fn legal() -> impl Strategy<Value = Legal> {
    let framed = prop_oneof![
        Just(Framed::Empty),
        Just(Framed::Exact),
        // Not so small that the extensions beside every other size add up to more than is allowed.
        (proptest::collection::vec(2usize..60, 1..4), lines(4))
            .prop_map(|(sizes, lines)| Framed::Chunks(sizes, lines)),
    ];
    let target = "/[!-\"$-~]{0,20}";
    (target, lines(6), framed, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(target, fields, framed, body)| {
            let mut raw = format!("PATCH {target} HTTP/1.1\r\nhost: a.test:80\r\n").into_bytes();
            put(&fields, &mut raw);
            let (body, trailers) = match framed {
                Framed::Empty => {
                    raw.extend_from_slice(b"\r\n");
                    (Vec::new(), Vec::new())
                }
                Framed::Exact => {
                    raw.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                    raw.extend_from_slice(&body);
                    (body, Vec::new())
                }
                Framed::Chunks(sizes, trailers) => {
                    raw.extend_from_slice(b"transfer-encoding: CHUNKED\r\n\r\n");
                    chunks(&body, &sizes, &mut raw);
                    raw.extend_from_slice(b"00;last=\"1\"\r\n");
                    put(&trailers, &mut raw);
                    raw.extend_from_slice(b"\r\n");
                    (body, trailers)
                }
            };
            Legal { raw, target, fields, body, trailers }
        },
    )
}

fn chunks(mut body: &[u8], sizes: &[usize], raw: &mut Vec<u8>) {
    for size in sizes.iter().cycle() {
        if body.is_empty() {
            return;
        }
        let (chunk, rest) = body.split_at((*size).min(body.len()));
        let head = if size % 2 == 0 {
            format!("{:X}\r\n", chunk.len())
        } else {
            format!("0{:x};a\r\n", chunk.len())
        };
        raw.extend_from_slice(head.as_bytes());
        raw.extend_from_slice(chunk);
        raw.extend_from_slice(b"\r\n");
        body = rest;
    }
}

fn collected(lines: &[(String, Vec<u8>)]) -> Fields {
    lines.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect()
}

/// Bytes that differ from legal ones in a few places: where parsers disagree.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = (
        any::<prop::sample::Index>(),
        0u8..4,
        prop::sample::select(&b"\r\n \t\0:;,=_-+0159xXaF/#?@[]\x7f\x80"[..]),
    );
    let special = prop::sample::select(vec![
        &b"Content-Length: 3\r\n"[..],
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding: identity\r\n",
        b"Host: b\r\n",
        b"Connection: close, host\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"TE: trailers\r\n",
        b"Expect: 100-continue\r\n",
        b"X_Forwarded_For: a\r\n",
        b"\r\n",
        b"\n",
        b"0\r\n\r\n",
        b" ",
        b"",
    ]);
    let special = (any::<prop::sample::Index>(), special);
    (proptest::collection::vec(legal(), 1..3), proptest::collection::vec(damage, 0..3), special).prop_map(
        |(messages, damages, (place, special))| {
            let mut raw: Vec<u8> = messages.into_iter().flat_map(|message| message.raw).collect();
            // Behind a line end, where a line would stand.
            let ends: Vec<_> = memchr::memchr_iter(b'\n', &raw).collect();
            let at = ends[place.index(ends.len())] + 1;
            raw.splice(at..at, special.iter().copied());
            for (place, how, byte) in damages {
                let at = place.index(raw.len());
                match how {
                    0 => raw[at] = byte,
                    1 => raw.insert(at, byte),
                    2 => _ = raw.remove(at),
                    _ => raw.truncate(at.max(1)),
                }
            }
            raw
        },
    )
}

/// How much of a message arrives at once.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1usize..40, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_legal_request_is_the_same_however_it_arrives(messages in proptest::collection::vec(legal(), 1..4), sizes in sizes()) {
        let raw: Vec<u8> = messages.iter().flat_map(|message| message.raw.clone()).collect();
        let (taken, end) = requests(&raw, AT_ONCE);
        prop_assert_eq!(end, End::Done);
        prop_assert_eq!(taken.len(), messages.len());
        for (taken, message) in taken.iter().zip(&messages) {
            prop_assert_eq!(text(&taken.head.target), message.target.clone());
            prop_assert_eq!(&taken.body, &message.body);
            prop_assert_eq!(&taken.trailers, &collected(&message.trailers));
            let mut fields = taken.head.fields.clone();
            fields.remove("host");
            fields.remove("content-length");
            prop_assert_eq!(fields, collected(&message.fields));
            assert_passes_on("legal", taken);
        }
        prop_assert_eq!(&requests(&raw, &sizes), &(taken.clone(), end));
        prop_assert_eq!(&requests(&raw, ONE_BY_ONE), &(taken, end));
    }

    #[test]
    fn damaged_requests_are_refused_or_can_only_be_read_one_way(raw in damaged(), sizes in sizes()) {
        let (taken, end) = requests(&raw, AT_ONCE);
        for request in &taken {
            assert_passes_on("damaged", request);
            prop_assert_eq!(request.head.check(), Ok(()));
        }
        prop_assert_eq!(requests(&raw, &sizes), (taken, end), "however it arrives");
    }

    #[test]
    fn damaged_responses_are_refused_or_can_only_be_read_one_way(raw in damaged(), sizes in sizes(), head in any::<bool>()) {
        let raw = String::from_utf8_lossy(&raw).replacen("PATCH ", "HTTP/1.1 200 ", 1).into_bytes();
        let method: &[u8] = if head { b"HEAD" } else { b"GET" };
        let (taken, end, _) = responses(&raw, method, AT_ONCE);
        for response in taken.iter().filter(|response| !response.head.is_informational()) {
            prop_assert_eq!(response.head.check(), Ok(()));
            for version in [Version::Http10, Version::Http11] {
                let reply = Reply { version, to_head: head, keep_alive: true };
                let (said, _) = say_response(response, reply);
                let seen = strict::response(&said, head).map_err(TestCaseError::fail)?;
                prop_assert_eq!(&seen.body, &response.body);
            }
        }
        let again = responses(&raw, method, &sizes);
        prop_assert_eq!((again.0, again.1), (taken, end), "however it arrives");
    }

    #[test]
    fn no_bytes_at_all_are_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..300), sizes in sizes()) {
        prop_assert_eq!(requests(&raw, &sizes), requests(&raw, AT_ONCE));
        _ = responses(&raw, b"GET", &sizes);
        let raw = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &raw[..]].concat();
        let (taken, end, _) = responses(&raw, b"GET", &sizes);
        let (at_once, end_at_once, _) = responses(&raw, b"GET", AT_ONCE);
        prop_assert_eq!((taken, end), (at_once, end_at_once));
    }

    #[test]
    fn a_response_is_the_same_once_it_was_passed_on(
        status in prop_oneof![Just(200u16), Just(204), Just(304), 200u16..600],
        reason in "[ -~]{0,10}",
        fields in lines(6),
        body in proptest::collection::vec(any::<u8>(), 0..100),
        trailers in lines(3),
        exact in any::<bool>(),
    ) {
        let mut head = ResponseHead { status, reason: reason.trim().into(), fields: collected(&fields), keep_alive: true, ..ResponseHead::default() };
        let bodiless = head.is_bodiless(b"GET");
        let (body, trailers) = match (bodiless, exact) {
            (true, _) => (Vec::new(), Fields::default()),
            (false, true) => {
                head.fields.push(b"content-length", body.len().to_string().as_bytes());
                head.body = Body::Exact(body.len() as u64);
                (body, Fields::default())
            }
            (false, false) => {
                head.body = Body::Streamed;
                (body, collected(&trailers))
            }
        };
        let response = Taken { head, body, trailers };
        prop_assert_eq!(response.head.check(), Ok(()));
        let (said, keep_alive) = say_response(&response, Reply { keep_alive: true, ..Reply::default() });
        prop_assert!(keep_alive);
        let (taken, end, empty) = responses(&said, b"GET", &[3]);
        prop_assert_eq!((end, empty), (End::Done, true));
        let mut again = taken[0].clone();
        if response.head.reason.is_empty() {
            again.head.reason.clear();
        }
        prop_assert_eq!(again, response);
    }
}
