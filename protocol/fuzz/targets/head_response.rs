//! Any bytes are a checked response, trailers or an error, and what was read can be written and read again.
#![no_main]

use culvert_protocol::frame::WireError;
use culvert_protocol::head::{
    decode_inform, decode_response, decode_trailers, decode_upgraded, encode_inform, encode_response,
    encode_trailers, encode_upgraded,
};
use culvert_protocol::message::{Fields, ResponseHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let results = [
        round(bytes, decode_response, encode_response),
        round(bytes, decode_inform, encode_inform),
        round(bytes, decode_upgraded, encode_upgraded),
    ];
    assert!(results.into_iter().filter(|read| *read).count() <= 1, "one status in two frames");

    let mut trailers = Fields::default();
    if decode_trailers(bytes, &mut trailers).is_ok() {
        let mut written = Vec::new();
        encode_trailers(&trailers, &mut written).expect("what was read can be written");
        let mut again = Fields::default();
        assert_eq!(decode_trailers(&written, &mut again), Ok(()));
        assert_eq!(again, trailers);
    }
});

fn round(
    bytes: &[u8],
    decode: fn(&[u8], &mut ResponseHead) -> Result<(), WireError>,
    encode: fn(&ResponseHead, &mut Vec<u8>) -> Result<(), WireError>,
) -> bool {
    let mut response = ResponseHead::default();
    if decode(bytes, &mut response).is_err() {
        return false;
    }
    assert_eq!(response.check(), Ok(()));
    let mut written = Vec::new();
    encode(&response, &mut written).expect("what was read can be written");
    let mut again = ResponseHead::default();
    assert_eq!(decode(&written, &mut again), Ok(()));
    assert_eq!(again, response);
    true
}
