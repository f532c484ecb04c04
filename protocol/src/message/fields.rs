//! Field lines as they came: order, spelling and bytes. What a name means is [`known`](super::known)'s to say.

use std::borrow::Cow;
use std::fmt;

use super::grammar::{is_token, is_value, list_contains, parse_length};
use super::known::{Vouched, in_any_spelling, is_hop_by_hop, is_kept, is_shadow, vouched};
use super::{Body, Malformed};

/// Field lines in order, repeated ones too (RFC 9110 §5), in one buffer: `name: value` and CRLF each, so that what was not
/// changed is passed on as one piece.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// A name that was taken holds `_`.
    underscored: bool,
    shadows: u16,
}

/// Where a line's name and value stand in the text: `start..colon`, and `colon..end` without [`COLON`]; behind it is [`CRLF`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    start: u32,
    colon: u32,
    end: u32,
}

/// Room for most heads, so that they are not grown into.
const FIRST_TEXT: usize = 512;
const FIRST_LINES: usize = 16;

const COLON: &[u8] = b": ";
const CRLF: &[u8] = b"\r\n";

impl Fields {
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        let colon = start + name.len();
        let end = colon + COLON.len() + value.len();
        // Heads are capped far below 4 GiB before anything gets here; a line beyond is left out rather than cut.
        let (Ok(start), Ok(colon), Ok(end)) =
            (u32::try_from(start), u32::try_from(colon), u32::try_from(end))
        else {
            return;
        };
        if self.lines.capacity() == 0 {
            self.text.reserve(FIRST_TEXT);
            self.lines.reserve(FIRST_LINES);
        }
        self.text.reserve(name.len() + value.len() + COLON.len() + CRLF.len());
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(COLON);
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(CRLF);
        self.lines.push(Line { start, colon, end });
    }

    /// Appends the lines that `says` says yes to as HTTP/1 has them, each with its CRLF.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, mut says: impl FnMut(&[u8], &[u8]) -> bool) {
        // Lines that stand next to each other leave together.
        let (mut from, mut to) = (0, 0);
        for line in &self.lines {
            let (name, value) = self.line(*line);
            if !says(name, value) {
                continue;
            }
            let (start, end) = (line.start as usize, line.end as usize + CRLF.len());
            if start != to {
                out.extend_from_slice(self.text.get(from..to).unwrap_or_default());
                from = start;
            }
            to = end;
        }
        out.extend_from_slice(self.text.get(from..to).unwrap_or_default());
    }

    /// A line from a peer: in, unless its name is a second way to say one that we frame, route or vouch by.
    pub(crate) fn take(&mut self, name: &[u8], value: &[u8]) {
        if name.contains(&b'_') {
            if is_shadow(name) {
                self.shadows = self.shadows.saturating_add(1);
                return;
            }
            self.underscored = true;
        }
        self.push(name, value);
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.underscored = false;
        self.shadows = 0;
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| self.line(*line))
    }

    /// Every value of a name, whatever its case, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Takes back what was pushed after the first `lines` lines.
    pub fn truncate(&mut self, lines: usize) {
        self.lines.truncate(lines);
    }

    /// Keeps the lines that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| {
            let (name, value) = slices(text, *line);
            keep(name, value)
        });
    }

    /// The lines that `without` says no to; the same ones where that are all.
    pub fn without(&self, without: impl Fn(&[u8]) -> bool) -> Cow<'_, Self> {
        if !self.iter().any(|(name, _)| without(name)) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(self.iter().filter(|(name, _)| !without(name)).collect())
    }

    /// Takes out every line of a name.
    pub fn remove(&mut self, name: &str) {
        self.retain(|other, _| !other.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Takes out the names that a comma list holds, except those that no caller may name away.
    pub(crate) fn strip_listed(&mut self, list: &[u8], steers: impl Fn(&[u8]) -> bool) {
        self.retain(|name, _| !list_contains(list, name) || is_kept(name) || steers(name));
    }

    /// Takes out what is the relay's own to say (`Culvert-*`), whoever said it.
    pub fn strip_ours(&mut self) {
        self.retain(|name, _| vouched(name) != Some(Vouched::Ours));
    }

    /// Takes out what would be a second way to say a field that is matched on, once `_` is read as `-`, as CGI does. A name
    /// that is itself matched on stays.
    pub fn strip_shadows(&mut self, steers: impl Fn(&[u8]) -> bool) {
        if !self.underscored {
            return;
        }
        let before = self.len();
        self.retain(|name, _| steers(name) || !in_any_spelling(name, &steers));
        let stripped = u16::try_from(before - self.len()).unwrap_or(u16::MAX);
        self.shadows = self.shadows.saturating_add(stripped);
    }

    /// How many lines from a peer were left out because their names were such a second way.
    pub fn shadows(&self) -> u16 {
        self.shadows
    }

    fn line(&self, line: Line) -> (&[u8], &[u8]) {
        slices(&self.text, line)
    }

    pub(super) fn check(&self, body: Body) -> Result<(), Malformed> {
        let mut length = None;
        for (name, value) in self.iter() {
            if !is_token(name) {
                return Err(Malformed::Name);
            }
            if !is_value(value) {
                return Err(Malformed::Value);
            }
            if is_hop_by_hop(name) {
                return Err(Malformed::HopByHop);
            }
            if name.eq_ignore_ascii_case(b"content-length")
                && (length.is_some() || {
                    length = parse_length(value);
                    length.is_none()
                })
            {
                return Err(Malformed::ContentLength);
            }
        }
        match (body, length) {
            (Body::Exact(said), Some(told)) if said != told => Err(Malformed::ContentLength),
            (Body::Exact(_), None) | (Body::Streamed, Some(_)) => Err(Malformed::ContentLength),
            _ => Ok(()),
        }
    }
}

fn slices(text: &[u8], line: Line) -> (&[u8], &[u8]) {
    let (start, colon, end) = (line.start as usize, line.colon as usize, line.end as usize);
    (text.get(start..colon).unwrap_or_default(), text.get(colon + COLON.len()..end).unwrap_or_default())
}

/// The same lines in the same order; what was taken out does not count.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (lossy(name), lossy(value)))).finish()
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(lines: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    }
}

fn lossy(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
