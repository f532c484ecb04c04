//! Any bytes are a checked opening or an error, and what was read can be written and read again.
#![no_main]

use culvert_protocol::head::{decode_opening, encode_opening};
use culvert_protocol::message::RequestHead;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut request = RequestHead::default();
    let Ok(opening) = decode_opening(bytes, &mut request) else { return };
    assert_eq!(request.check(), Ok(()));
    let mut written = Vec::new();
    encode_opening(opening, &request, &mut written).expect("what was read can be written");
    let mut again = RequestHead::default();
    assert_eq!(decode_opening(&written, &mut again), Ok(opening));
    assert_eq!(again, request);
});
