//! Texts of others made fit for a terminal, and a few things in words. Pure; prints nothing.

use std::fmt::Write as _;

use culvert_protocol::hello::UnixMillis;

/// Text as a terminal may have it: control characters, and those that are invisible or turn the direction of what
/// follows, are written as escapes.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_plain(char) { shown.push(char) } else { shown.extend(char.escape_unicode()) }
    }
    shown
}

/// The same for bytes that may not be text.
pub fn shown_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&shown(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// An error and its causes, in one line. A cause that its error has already told is not repeated.
pub fn because(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            let _ = write!(text, ": {told}");
        }
        cause = error.source();
    }
    text
}

/// How long before `now` a moment was: `4m ago`, or `just now` for what is not past.
pub fn ago(moment: UnixMillis, now: UnixMillis) -> String {
    roughly(now.0.saturating_sub(moment.0))
        .map_or_else(|| "just now".to_owned(), |time| format!("{time} ago"))
}

/// How long after `now` a moment will be: `in 4m`, or `now` for what is not to come.
pub fn until(moment: UnixMillis, now: UnixMillis) -> String {
    roughly(moment.0.saturating_sub(now.0)).map_or_else(|| "now".to_owned(), |time| format!("in {time}"))
}

/// In the largest unit that there is one of. None: less than a second.
fn roughly(millis: u64) -> Option<String> {
    let seconds = millis / 1000;
    match seconds {
        0 => None,
        1..60 => Some(format!("{seconds}s")),
        60..3600 => Some(format!("{}m", seconds / 60)),
        3600..86_400 => Some(format!("{}h", seconds / 3600)),
        _ => Some(format!("{}d", seconds / 86_400)),
    }
}

pub(super) fn is_plain(char: char) -> bool {
    !char.is_control()
        && !matches!(
            char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_written_as_an_escape() {
        assert_eq!(shown_bytes(b"/caf\xc3\xa9/\xff\x00"), "/café/\\xff\\u{0}");
        assert_eq!(shown("a\u{202e}b\u{feff}"), "a\\u{202e}b\\u{feff}");
    }

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening it{0}")]
        struct Outer(&'static str, #[source] std::io::Error);
        let inner = || std::io::Error::other("it is shut");
        assert_eq!(because(&Outer("", inner())), "opening it: it is shut");
        assert_eq!(because(&Outer(": it is shut", inner())), "opening it: it is shut");
    }

    #[test]
    fn a_moment_is_told_by_how_far_it_is_from_now() {
        let now = UnixMillis(1_000_000_000);
        for (before, said) in [
            (0, "just now"),
            (59_999, "59s ago"),
            (60_000, "1m ago"),
            (7_200_000, "2h ago"),
            (200_000_000, "2d ago"),
        ] {
            assert_eq!(ago(UnixMillis(now.0 - before), now), said);
        }
        assert_eq!(ago(UnixMillis(u64::MAX), now), "just now");
        for (after, said) in [(0, "now"), (59_999, "in 59s"), (7_199_999, "in 1h"), (200_000_000, "in 2d")] {
            assert_eq!(until(UnixMillis(now.0 + after), now), said);
        }
        assert_eq!(until(UnixMillis(0), now), "now");
    }
}
