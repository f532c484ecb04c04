//! Which claim a request is for: the compiled, immutable matcher of one service. Pure.
//!
//! Built whole from a service's claims and swapped whole; reading takes no lock. An exact header value is found by
//! hash, so that a request costs the same among ten claims and a hundred thousand.
//!
//! Where several claims match, the one with more conditions wins, then the older one: a total order, so that every
//! reader of the same claims decides alike.

use std::collections::{HashMap, HashSet};

use culvert_protocol::intercept::{Condition, Matcher};
use culvert_protocol::message::RequestHead;

/// `T` is what a match leads to.
#[derive(Debug)]
pub(crate) struct Routes<T> {
    /// In order of precedence: the first that matches wins.
    claims: Vec<Route<T>>,
    /// A claim stands under the first of its conditions: header name in lower case, then value.
    by_header: HashMap<Box<[u8]>, ByValue>,
    /// The lengths of those names, a bit each: most fields of a request are passed over by it.
    lengths: u64,
    /// Every name that some claim looks at, in lower case.
    names: HashSet<Box<[u8]>>,
    /// Claims without conditions.
    all_traffic: Option<usize>,
}

/// Where claims stand among all, by the value that they ask for.
type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

#[derive(Debug)]
struct Route<T> {
    matcher: Matcher,
    leads_to: T,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self {
            claims: Vec::new(),
            by_header: HashMap::new(),
            lengths: 0,
            names: HashSet::new(),
            all_traffic: None,
        }
    }
}

impl<T> Routes<T> {
    /// Compiles claims: each with its place in the order of age, and what it leads to.
    pub(crate) fn build(claims: impl IntoIterator<Item = (Matcher, u64, T)>) -> Self {
        let mut claims: Vec<_> = claims.into_iter().collect();
        claims.sort_by_key(|(matcher, age, _)| (std::cmp::Reverse(matcher.conditions().len()), *age));
        let mut routes = Self::default();
        for (matcher, _, leads_to) in claims {
            let at = routes.claims.len();
            for Condition::Header { name, .. } in matcher.conditions() {
                routes.names.insert(name.as_str().as_bytes().into());
            }
            match matcher.conditions().first() {
                Some(Condition::Header { name, exact }) => {
                    routes.lengths |= length_bit(name.as_str().as_bytes());
                    let by_value = routes.by_header.entry(name.as_str().as_bytes().into()).or_default();
                    by_value.entry(exact.as_bytes().into()).or_default().push(at);
                }
                None => routes.all_traffic = routes.all_traffic.or(Some(at)),
            }
            routes.claims.push(Route { matcher, leads_to });
        }
        routes
    }

    /// What the request is claimed for, if it is.
    pub(crate) fn pick(&self, request: &RequestHead) -> Option<&T> {
        let mut best = self.all_traffic;
        if self.lengths != 0 {
            for (name, value) in request.fields.iter() {
                if self.lengths & length_bit(name) == 0 {
                    continue;
                }
                for at in self.under(name, value) {
                    let earlier = best.is_none_or(|best| *at < best);
                    if earlier && self.claims.get(*at).is_some_and(|route| matches(&route.matcher, request)) {
                        best = Some(*at);
                    }
                }
            }
        }
        best.and_then(|at| self.claims.get(at)).map(|route| &route.leads_to)
    }

    /// A claim looks at this field, so that nobody may make it disappear before it is matched.
    pub(crate) fn steers(&self, name: &[u8]) -> bool {
        !self.names.is_empty() && self.names.contains(name.to_ascii_lowercase().as_slice())
    }

    fn under(&self, name: &[u8], value: &[u8]) -> &[usize] {
        let mut lower = [0u8; 64];
        let by_value = match lower.get_mut(..name.len()) {
            Some(lower) => {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                self.by_header.get(&*lower)
            }
            None => self.by_header.get(name.to_ascii_lowercase().as_slice()),
        };
        by_value.and_then(|by_value| by_value.get(value)).map(Vec::as_slice).unwrap_or_default()
    }
}

fn matches(matcher: &Matcher, request: &RequestHead) -> bool {
    matcher.conditions().iter().all(|condition| match condition {
        Condition::Header { name, exact } => {
            request.fields.all(name.as_str()).any(|value| value == exact.as_bytes())
        }
    })
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_protocol::message::Fields;
    use proptest::prelude::*;

    fn request(lines: &[(&str, &[u8])]) -> RequestHead {
        let fields: Fields = lines.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
        RequestHead { method: b"GET".to_vec(), target: b"/".to_vec(), fields, ..RequestHead::default() }
    }

    fn matcher(conditions: &[(&str, &[u8])]) -> Matcher {
        let one =
            |(name, value): &(&str, &[u8])| Matcher::header_exact(name, value).unwrap().conditions().to_vec();
        Matcher::new(conditions.iter().flat_map(one)).unwrap()
    }

    #[test]
    fn a_name_matches_in_any_case_and_a_value_byte_for_byte() {
        let routes = Routes::build([
            (matcher(&[("x-user", b"alice")]), 0, 'a'),
            (matcher(&[("X-User", b"\xff")]), 1, 'b'),
        ]);
        assert_eq!(routes.pick(&request(&[("X-USER", b"alice")])), Some(&'a'));
        assert_eq!(routes.pick(&request(&[("x-user", b"\xff")])), Some(&'b'));
        for other in [&b"Alice"[..], b"alice, bob", b"alic", b"", b"alicee"] {
            assert_eq!(routes.pick(&request(&[("x-user", other)])), None, "{other:?}");
        }
        assert_eq!(routes.pick(&request(&[("x_user", b"alice")])), None);
    }

    #[test]
    fn every_line_of_a_repeated_field_counts() {
        let routes = Routes::build([(matcher(&[("x-user", b"alice")]), 0, ())]);
        assert!(routes.pick(&request(&[("x-user", b"bob"), ("X-User", b"alice")])).is_some());
    }

    #[test]
    fn more_conditions_win_then_the_older() {
        let routes = Routes::build([
            (Matcher::all_traffic(), 0, "all"),
            (matcher(&[("a", b"1")]), 2, "younger"),
            (matcher(&[("b", b"1")]), 1, "older"),
            (matcher(&[("a", b"1"), ("b", b"2")]), 3, "both"),
        ]);
        assert_eq!(routes.pick(&request(&[])), Some(&"all"));
        assert_eq!(routes.pick(&request(&[("a", b"1"), ("b", b"1")])), Some(&"older"));
        assert_eq!(routes.pick(&request(&[("b", b"2"), ("a", b"1")])), Some(&"both"));
    }

    proptest! {
        #[test]
        fn the_table_decides_as_reading_every_claim_would(
            claims in prop::collection::vec(prop::collection::btree_map(0..4usize, 0..3u8, 0..3), 0..12),
            lines in prop::collection::vec((0..4usize, 0..3u8), 0..6),
        ) {
            const NAMES: [&str; 4] = ["x-user", "x-team", "a", "baggage"];
            let value = |value: u8| -> &'static [u8] { [&b"1"[..], b"two", b"\xf0"][usize::from(value)] };
            let claims: Vec<Matcher> = claims.iter().map(|conditions| {
                matcher(&conditions.iter().map(|(name, said)| (NAMES[*name], value(*said))).collect::<Vec<_>>())
            }).collect();
            let request = request(&lines.iter().map(|(name, said)| (NAMES[*name], value(*said))).collect::<Vec<_>>());
            let naive = claims.iter().enumerate()
                .filter(|(_, matcher)| matches(matcher, &request))
                .min_by_key(|(age, matcher)| (std::cmp::Reverse(matcher.conditions().len()), *age))
                .map(|(age, _)| age);
            let routes = Routes::build(claims.into_iter().enumerate().map(|(age, matcher)| (matcher, age as u64, age)));
            prop_assert_eq!(routes.pick(&request).copied(), naive);
        }
    }
}
