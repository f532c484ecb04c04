//! Whom a request goes to, said of tables that were built at once and of ones that changed many times.

use proptest::prelude::*;

use super::tree::is_met;
use super::*;

/// A claim, and what a test calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim<N>(Matcher, N);

impl<N: Clone> Matching for Claim<N> {
    fn matcher(&self) -> &Matcher {
        &self.0
    }
}

/// Of these, the oldest first.
fn routes<N: Clone>(claims: impl IntoIterator<Item = (Matcher, N)>) -> Routes<Claim<N>> {
    let mut routes = Routes::default();
    for (age, (matcher, name)) in claims.into_iter().enumerate() {
        routes.insert(age as u64, Claim(matcher, name));
    }
    routes
}

fn request(lines: &[(&str, &[u8])]) -> RequestHead {
    let fields: Fields = lines.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
    RequestHead { method: b"GET".to_vec(), target: b"/".to_vec(), fields, ..RequestHead::default() }
}

fn matcher(conditions: &[(&str, &[u8])]) -> Matcher {
    let one =
        |(name, value): &(&str, &[u8])| Matcher::header_exact(name, value).unwrap().conditions().to_vec();
    Matcher::new(conditions.iter().flat_map(one)).unwrap()
}

fn picked<N: Clone>(routes: &Routes<Claim<N>>, lines: &[(&str, &[u8])]) -> Option<N> {
    routes.pick(&request(lines)).map(|claim| claim.1.clone())
}

#[test]
fn a_name_matches_in_any_case_and_a_value_byte_for_byte() {
    let routes = routes([(matcher(&[("x-user", b"alice")]), 'a'), (matcher(&[("X-User", b"\xff")]), 'b')]);
    assert_eq!(picked(&routes, &[("X-USER", b"alice")]), Some('a'));
    assert_eq!(picked(&routes, &[("x-user", b"\xff")]), Some('b'));
    for other in [&b"Alice"[..], b"alice, bob", b"alic", b"", b"alicee"] {
        assert_eq!(picked(&routes, &[("x-user", other)]), None, "{other:?}");
    }
    assert_eq!(picked(&routes, &[("x_user", b"alice")]), None);
}

#[test]
fn every_line_of_a_repeated_field_counts() {
    let routes = routes([(matcher(&[("x-user", b"alice")]), ())]);
    assert!(picked(&routes, &[("x-user", b"bob"), ("X-User", b"alice")]).is_some());
}

#[test]
fn more_conditions_win_then_the_older() {
    let routes = routes([
        (Matcher::all_traffic(), "all"),
        (matcher(&[("b", b"1")]), "older"),
        (matcher(&[("a", b"1")]), "younger"),
        (matcher(&[("a", b"1"), ("b", b"2")]), "both"),
    ]);
    assert_eq!(picked(&routes, &[]), Some("all"));
    assert_eq!(picked(&routes, &[("a", b"1"), ("b", b"1")]), Some("older"));
    assert_eq!(picked(&routes, &[("b", b"2"), ("a", b"1")]), Some("both"));
}

#[test]
fn a_name_steers_as_long_as_a_claim_looks_at_it() {
    let [both, one] = [matcher(&[("x-user", b"a"), ("X-Team", b"a")]), matcher(&[("x-user", b"b")])];
    let mut routes = routes([(both.clone(), 0), (one.clone(), 1)]);
    assert!(routes.steers(b"X-USER") && routes.steers(b"x-team") && !routes.steers(b"x-bots"));
    let before = routes.clone();
    routes.remove(0, &both);
    assert!(routes.steers(b"x-user") && !routes.steers(b"x-team"));
    routes.remove(1, &one);
    routes.remove(1, &one);
    assert!(!routes.steers(b"x-user") && routes.lengths.is_empty());
    // Whoever reads the table from before is not disturbed.
    assert!(before.steers(b"x-team") && picked(&before, &[("x-user", b"b")]) == Some(1));
}

/// What a request costs: how many claims it is compared with.
fn looked_at(routes: &Routes<Claim<u32>>, lines: &[(&str, &[u8])]) -> usize {
    let mut shown = 0;
    routes.claims.met_by(&request(lines).fields, &routes.lengths, 0, &mut |_| shown += 1);
    shown
}

#[test]
fn claims_that_share_a_value_are_not_looked_through() {
    let numbers: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let shared = |number: &String| matcher(&[("a-team", b"red"), ("x-user", number.as_bytes())]);
    let routes = routes(numbers.iter().map(shared).zip(0..));
    let red: (&str, &[u8]) = ("a-team", b"red");
    assert_eq!(picked(&routes, &[("x-user", b"500"), red]), Some(500));
    assert_eq!(looked_at(&routes, &[("x-user", b"500"), red]), 1);
    assert_eq!(looked_at(&routes, &[red]), 0);
}

/// Names and values that meet often.
const NAMES: [&str; 4] = ["x-user", "x-team", "a", "baggage"];
const VALUES: [&[u8]; 3] = [b"1", b"two", b"\xf0"];

fn lines() -> impl Strategy<Value = Vec<(&'static str, &'static [u8])>> {
    let line = (prop::sample::select(&NAMES[..]), prop::sample::select(&VALUES[..]));
    prop::collection::vec(line, 0..7)
}

/// Often of one name twice, and of all traffic.
fn any_matcher() -> impl Strategy<Value = Matcher> {
    lines().prop_map(|lines| matcher(lines.get(..lines.len().min(3)).unwrap_or_default()))
}

/// Reads every claim.
fn naive<'a>(claims: impl Iterator<Item = (&'a u64, &'a Matcher)>, request: &RequestHead) -> Option<u64> {
    claims
        .filter(|(_, matcher)| {
            matcher.conditions().iter().all(|condition| is_met(condition, &request.fields))
        })
        .min_by_key(|(age, matcher)| (std::cmp::Reverse(matcher.conditions().len()), **age))
        .map(|(age, _)| *age)
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Matcher),
    /// The so-manieth of those that are there.
    Remove(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let remove = any::<prop::sample::Index>().prop_map(Change::Remove);
    prop_oneof![3 => any_matcher().prop_map(Change::Insert), 2 => remove]
}

proptest! {
    #[test]
    fn the_table_decides_as_reading_every_claim_would(
        claims in prop::collection::vec(any_matcher(), 0..12),
        lines in lines(),
    ) {
        let request = request(&lines);
        let ages: Vec<_> = (0..).zip(claims).collect();
        let naive = naive(ages.iter().map(|(age, matcher)| (age, matcher)), &request);
        let routes = routes(ages.iter().map(|(age, matcher)| (matcher.clone(), *age)));
        prop_assert_eq!(routes.pick(&request).map(|claim| claim.1), naive);
    }

    #[test]
    fn a_table_that_changed_is_the_one_that_would_be_built_of_what_is_left(
        changes in prop::collection::vec(change(), 0..40),
        requests in prop::collection::vec(lines(), 8),
    ) {
        let (mut routes, mut left) = (Routes::default(), std::collections::BTreeMap::new());
        for (age, change) in (0u64..).zip(changes) {
            match change {
                Change::Insert(matcher) => {
                    routes.insert(age, Claim(matcher.clone(), age));
                    left.insert(age, matcher);
                }
                Change::Remove(which) if !left.is_empty() => {
                    let age = *left.keys().nth(which.index(left.len())).unwrap();
                    routes.remove(age, &left.remove(&age).unwrap());
                }
                // Nothing is there, and nothing is what it changes.
                Change::Remove(_) => routes.remove(age, &matcher(&[("a", b"1")])),
            }
            let mut anew = Routes::default();
            for (age, matcher) in &left {
                anew.insert(*age, Claim(matcher.clone(), *age));
            }
            prop_assert_eq!(shape(&routes), shape(&anew));
            for lines in &requests {
                let request = request(lines);
                prop_assert_eq!(routes.pick(&request).map(|claim| claim.1), naive(left.iter(), &request));
            }
            for name in NAMES {
                let looks = |Condition::Header { name: other, .. }: &Condition| other.as_str() == name;
                let steers = left.values().any(|matcher| matcher.conditions().iter().any(looks));
                prop_assert_eq!(routes.steers(name.as_bytes()), steers);
            }
        }
    }

    #[test]
    fn a_matcher_is_covered_by_whom_it_says(
        claims in prop::collection::vec(any_matcher(), 0..12),
        asked in any_matcher(),
    ) {
        let routes = routes(claims.iter().cloned().zip(0..));
        let mut covering: Vec<usize> = routes.covering(&asked).iter().map(|claim| claim.1).collect();
        covering.sort_unstable();
        let naive: Vec<usize> =
            claims.iter().zip(0..).filter(|(claim, _)| claim.covers(&asked)).map(|(_, at)| at).collect();
        prop_assert_eq!(covering, naive);
    }
}

/// All that a table is, whatever order its tries are in.
fn shape(routes: &Routes<Claim<u64>>) -> String {
    let mut names: Vec<_> = routes.names.iter().collect();
    names.sort();
    format!("{} {names:?} {:?}", routes.claims.shape(), routes.lengths)
}
