//! QUIC's variable-length integers (RFC 9000 §16): the two highest bits of the first byte say how many bytes there are.

/// The largest number that can be written.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// A number and how many bytes it took; none while it is not whole. Longer forms than needed are good.
pub(crate) fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = 1usize << (first >> 6);
    let number = bytes
        .get(..size)?
        .iter()
        .skip(1)
        .fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte));
    Some((number, size))
}

/// Writes a number in its shortest form. Nothing that has a cap comes near [`MAX`].
pub(crate) fn encode(number: u64, into: &mut Vec<u8>) {
    let number = number.min(MAX);
    let bytes = number.to_be_bytes();
    let (size, mark) = match number {
        0..=0x3f => (1, 0),
        0x40..=0x3fff => (2, 0x40),
        0x4000..=0x3fff_ffff => (4, 0x80),
        _ => (8, 0xc0),
    };
    let at = into.len();
    into.extend(bytes.iter().skip(bytes.len() - size));
    if let Some(first) = into.get_mut(at) {
        *first |= mark;
    }
}

/// A number below 2^30 in four bytes, to be written over a place that was kept for it.
pub(crate) fn fixed(number: u32) -> [u8; FIXED] {
    (number & 0x3fff_ffff | 0x8000_0000).to_be_bytes()
}

pub(crate) const FIXED: usize = 4;
