//! Any bytes are a response's head or a refusal; what was taken passes `check()`, and however its caller asked, it is said
//! with one framing. The first byte says what was asked, and in which version.
#![no_main]

use culvert_protocol::http1::head::{MOST_FIELDS, whole_head};
use culvert_protocol::http1::{Encoder, Limits, Reply, encode_response, parse_response};
use culvert_protocol::message::{Body, ResponseHead, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((asked, bytes)) = bytes.split_first() else { return };
    let to_head = asked & 1 != 0;
    let method: &[u8] = if to_head { b"HEAD" } else { b"GET" };
    let version = if asked & 2 != 0 { Version::Http10 } else { Version::Http11 };
    let limits = Limits::default();
    let Ok(Some(end)) = whole_head(bytes, &mut 0) else { return };
    let mut head = ResponseHead::default();
    let Ok((length, _)) = parse_response(&bytes[..end], &limits, method, &mut head) else { return };
    assert_eq!(length, end, "the head ends where its empty line is");
    assert_eq!(head.check(), Ok(()));

    let mut said = Vec::new();
    let reply = Reply { version, to_head, keep_alive: true };
    let (framing, keep_alive) = encode_response(&head, reply, &mut said);
    let end = whole_head(&said, &mut 0).expect("its lines end well").expect("it ends");
    assert_eq!(end, said.len(), "and nowhere before");
    // Framing may have been added.
    let limits = Limits { fields: MOST_FIELDS, ..limits };
    let mut again = ResponseHead::default();
    parse_response(&said, &limits, method, &mut again).expect("what is said can be read");
    assert_eq!(again.status, head.status);
    let last = framing == Encoder::UntilClose || version == Version::Http10;
    assert_eq!(keep_alive, !last);
    match framing {
        Encoder::Exact(length) => assert_eq!(again.body, Body::Exact(length)),
        Encoder::Empty => assert_eq!(again.body, Body::Empty),
        Encoder::Chunked | Encoder::UntilClose => assert_eq!(again.body, Body::Streamed),
        Encoder::Raw => panic!("nothing is raw before an upgrade"),
    }
});
