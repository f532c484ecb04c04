//! What the two ends of a yamux tunnel say to each other beside their streams: pure bytes <-> values.
//!
//! A signal is a kind byte, a length byte and as many bytes of payload; kinds that this version does not know are
//! skipped. They run on a stream of their own, so nothing here exceeds 257 bytes.

use crate::tunnel::CloseReason;

/// Longer than the longest signal, and room for a few.
const MAX_BUFFERED: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// Nobody reads what you send on this stream any more.
    Stop(u32),
    /// No more will come on this stream, and what came is not the whole.
    Reset(u32),
    /// Still here.
    Alive,
    /// The tunnel is over. The last signal.
    Close(CloseReason),
}

impl Signal {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stop(id) => frame(out, STOP, &[&id.to_be_bytes()]),
            Self::Reset(id) => frame(out, RESET, &[&id.to_be_bytes()]),
            Self::Alive => frame(out, ALIVE, &[]),
            Self::Close(reason) => {
                frame(out, CLOSE, &[&reason.code().number().to_be_bytes(), reason.text().as_bytes()]);
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, payload: &[&[u8]]) {
    // The longest payload is a close: 4 bytes of code and a text that CloseReason bounds at 200.
    let length = payload.iter().map(|part| part.len()).sum::<usize>();
    out.push(kind);
    out.push(u8::try_from(length).unwrap_or(u8::MAX));
    out.extend(payload.iter().copied().flatten().take(usize::from(u8::MAX)));
}

const STOP: u8 = 1;
const RESET: u8 = 2;
const ALIVE: u8 = 3;
const CLOSE: u8 = 4;

/// A known kind with a payload that cannot be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed signal of kind {0}")]
pub(super) struct Malformed(u8);

/// Puts signals together from bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffered: Vec<u8>,
}

impl Decoder {
    /// How many bytes to read at once, given that `next` was called until it had nothing.
    pub(super) const READ: usize = 256;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.buffered.len() + bytes.len() <= MAX_BUFFERED, "call next first");
        self.buffered.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Option<Signal>, Malformed> {
        while let [kind, length, rest @ ..] = self.buffered.as_slice() {
            let (kind, length) = (*kind, usize::from(*length));
            let Some(payload) = rest.get(..length) else {
                return Ok(None);
            };
            let signal = decode(kind, payload)?;
            self.buffered.drain(..2 + length);
            if signal.is_some() {
                return Ok(signal);
            }
        }
        Ok(None)
    }
}

fn decode(kind: u8, payload: &[u8]) -> Result<Option<Signal>, Malformed> {
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).map_err(|_| Malformed(kind));
    Ok(Some(match kind {
        STOP => Signal::Stop(number(payload)?),
        RESET => Signal::Reset(number(payload)?),
        ALIVE => Signal::Alive,
        CLOSE => {
            let (code, text) = payload.split_at_checked(4).ok_or(Malformed(kind))?;
            Signal::Close(CloseReason::from_wire(u64::from(number(code)?), text))
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::CloseCode;

    fn signals() -> impl Strategy<Value = Signal> {
        prop_oneof![
            any::<u32>().prop_map(Signal::Stop),
            any::<u32>().prop_map(Signal::Reset),
            Just(Signal::Alive),
            "\\PC{0,80}".prop_map(|text| Signal::Close(CloseReason::new(CloseCode::Superseded, &text))),
        ]
    }

    proptest! {
        #[test]
        fn signals_survive_any_cutting(sent in prop::collection::vec(signals(), 0..8), cut in 1_usize..200) {
            let mut wire = Vec::new();
            // A kind from the future stands between them.
            for signal in &sent {
                signal.encode(&mut wire);
                wire.extend_from_slice(&[200, 3, 1, 2, 3]);
            }
            let mut decoder = Decoder::default();
            let mut received = Vec::new();
            for piece in wire.chunks(cut) {
                decoder.push(piece);
                while let Some(signal) = decoder.next().unwrap() {
                    received.push(signal);
                }
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn random_bytes_neither_panic_nor_pile_up(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = Decoder::default();
            for piece in bytes.chunks(Decoder::READ) {
                decoder.push(piece);
                loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(decoder.buffered.len() <= 257);
            }
        }
    }
}
