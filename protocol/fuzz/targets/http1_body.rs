//! Any bytes are chunks or a refusal, the same ones however they are cut up; what was taken can be said again and read
//! again, and no trailer steers. The first byte says how it is cut up.
#![no_main]

use culvert_protocol::http1::body::Decoded;
use culvert_protocol::http1::{Decoder, Encoder, Limits, Refusal};
use culvert_protocol::message::{Fields, is_token, is_value, may_be_trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = body(bytes, usize::MAX);
    assert_eq!(whole, body(bytes, usize::from(*cut).max(1)));
    let Ok(Some((data, trailers, _))) = whole else { return };
    for (name, value) in trailers.iter() {
        assert!(is_token(name) && is_value(value) && may_be_trailer(name));
    }
    let mut said = Vec::new();
    let mut encoder = Encoder::Chunked;
    for piece in data.chunks(usize::from(*cut).max(1)) {
        encoder.data(piece.len(), &mut said).expect("chunks are of any length");
        said.extend_from_slice(piece);
        said.extend_from_slice(encoder.after_data());
    }
    encoder.end(Some(&trailers), &mut said).expect("chunks end anywhere");
    let length = said.len();
    assert_eq!(body(&said, usize::MAX), Ok(Some((data, trailers, length))));
});

type Body = (Vec<u8>, Fields, usize);

/// The body and how many bytes it took; `None`: it is cut.
fn body(bytes: &[u8], most: usize) -> Result<Option<Body>, Refusal> {
    let mut decoder = Decoder::chunked(Limits::default());
    let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        let input = &bytes[at..end];
        match decoder.decode(input)? {
            Decoded::Data { skip, length } => {
                assert!(length > 0);
                data.extend_from_slice(&input[skip..skip + length]);
                at += skip + length;
            }
            Decoded::End { skip } => {
                assert!(decoder.is_done());
                let trailers = decoder.trailers().cloned().unwrap_or_default();
                return Ok(Some((data, trailers, at + skip)));
            }
            Decoded::More { skip } => {
                at += skip;
                if end == bytes.len() {
                    return Ok(None);
                }
                end = end.saturating_add(most).min(bytes.len());
            }
        }
    }
}
