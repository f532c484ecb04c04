//! Any bytes are a control message or an error, and what was read can be written and read again.
#![no_main]

use culvert_protocol::hello::{FromClient, FromJoiner, FromRelay, Message, ToJoiner, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    round::<FromClient>(bytes);
    round::<FromRelay>(bytes);
    round::<FromJoiner>(bytes);
    round::<ToJoiner>(bytes);
});

fn round<T: Message>(bytes: &[u8]) {
    let Ok(message) = decode::<T>(bytes) else { return };
    // What is never sent, or has become longer than it may be, is not written.
    let Ok(written) = encode(&message) else { return };
    let again: T = decode(&written[4..]).expect("what was written can be read");
    let twice = encode(&again).expect("what was read can be written");
    assert!(twice == written, "a message changed on its way");
}
