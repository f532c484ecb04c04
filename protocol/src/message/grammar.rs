//! What bytes a token, a value, a target, a host and a length may be made of. Pure, and sure of nothing else.

/// A plain decimal number that every reader takes alike: no sign, no white space, no list, no leading zero that makes it
/// octal to some, and not beyond what a signed 64-bit number holds (RFC 9110 §8.6).
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    const MOST: u64 = i64::MAX as u64;
    if value.is_empty() || value.len() > 19 || value.len() > 1 && value.starts_with(b"0") {
        return None;
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
        .filter(|length| *length <= MOST)
}

/// A token of RFC 9110 §5.6.2.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A field value of RFC 9110 §5.5: visible bytes, obs-text, space and tab.
pub fn is_value(bytes: &[u8]) -> bool {
    every(bytes, |byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// Origin-form or asterisk-form. RFC 3986 forbids more than this; what browsers send unescaped (`|`, `"`, `{`) passes,
/// but never white space, a control byte, a fragment or a byte beyond ASCII.
pub fn is_target(bytes: &[u8]) -> bool {
    bytes == b"*"
        || bytes.first() == Some(&b'/') && every(bytes, |byte| matches!(byte, b'!'..=b'~') && byte != b'#')
}

/// `host [":" port]` of RFC 3986 §3.2.2, without user information; nothing that could be a path or a list.
pub fn is_host(bytes: &[u8]) -> bool {
    let (name, port) = match bytes.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !bytes.ends_with(b"]") => {
            (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..).unwrap_or_default())
        }
        _ => (bytes, &[] as &[u8]),
    };
    let literal = name.first() == Some(&b'[')
        && name.last() == Some(&b']')
        && name.len() > 2
        && name[1..name.len() - 1]
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'v' | b'%'));
    let registered = !name.is_empty()
        && name.iter().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                )
        });
    (literal || registered) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// Looks at all of them, whatever the first ones are: several at once, that is, where most strings are good.
fn every(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & is(*byte))
}

/// Whether a comma list holds a token, whatever its case (RFC 9110 §5.6.1).
pub(crate) fn list_contains(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};
