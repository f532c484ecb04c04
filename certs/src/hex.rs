//! Lower-case hexadecimal: how fingerprints, serials and ids are written. Holds no secret-dependent promise: it is
//! not constant in time, so secrets pass through it only between memory and a private file.

use std::fmt;

/// Writes `bytes` as lower-case hexadecimal.
pub(crate) fn write(bytes: &[u8], to: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    // Reserved at once: a secret that is being written must not leave copies behind while the string grows.
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].map(|nibble| char::from_digit(nibble.into(), 16).unwrap_or('0')));
    }
    text
}

/// Exactly `N` bytes, either case; `None` for anything else.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        for digit in pair {
            let nibble = char::from(*digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok())?;
            *byte = *byte << 4 | nibble;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_back() {
        let bytes = [0x00, 0x7f, 0xa5, 0xff];
        assert_eq!(encode(&bytes), "007fa5ff");
        assert_eq!(decode::<4>("007FA5ff"), Some(bytes));
    }

    #[test]
    fn another_length_or_another_alphabet_is_refused() {
        for text in ["", "0", "00", "0011223", "001122330", "0011223g", "+0112233", "é112233"] {
            assert_eq!(decode::<4>(text), None, "{text}");
        }
    }
}
