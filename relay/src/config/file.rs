//! `relay.yaml` as typed: its keys and where each value stands. Nothing is interpreted here; every value but a switch
//! is still text. Keys are strict, because a misspelt limit that is ignored is a limit that is off.

use serde::Deserialize;
use serde_saphyr::{Error, Spanned};

use super::Problem;

pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) data: Option<Text>,
    pub(super) tunnel: Option<TunnelKeys>,
    pub(super) admin: Option<AdminKeys>,
    /// Required, like what stands in each; asked for later, because only then is it known where it is missing.
    pub(super) services: Option<Spanned<Vec<Spanned<ServiceKeys>>>>,
    pub(super) limits: Option<LimitsKeys>,
    pub(super) drain: Option<DrainKeys>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelKeys {
    pub(super) listen: Option<Text>,
    pub(super) websocket: Option<Text>,
    pub(super) names: Option<Spanned<Vec<Text>>>,
    pub(super) replicas: Option<Text>,
    pub(super) claims: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminKeys {
    pub(super) listen: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceKeys {
    pub(super) name: Option<Text>,
    pub(super) listen: Option<Text>,
    pub(super) upstream: Option<Text>,
    pub(super) upstream_tls: Option<Spanned<UpstreamTlsKeys>>,
    pub(super) tls: Option<Spanned<DoorTlsKeys>>,
    pub(super) trusted_proxies: Option<Vec<Text>>,
    pub(super) forwarded: Option<Text>,
    pub(super) host: Option<Text>,
    pub(super) via: Option<bool>,
    pub(super) route_field: Option<Text>,
    pub(super) proxy_protocol: Option<Vec<Text>>,
    pub(super) public: Option<bool>,
    pub(super) all_traffic: Option<bool>,
    pub(super) limits: Option<LimitsKeys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTlsKeys {
    pub(super) ca: Option<Text>,
    pub(super) verify: Option<bool>,
    pub(super) name: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DoorTlsKeys {
    pub(super) certificate: Option<Text>,
    pub(super) key: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsKeys {
    pub(super) head_read: Option<Text>,
    pub(super) keep_alive: Option<Text>,
    pub(super) body_idle: Option<Text>,
    pub(super) connect: Option<Text>,
    pub(super) response_head: Option<Text>,
    pub(super) response_idle: Option<Text>,
    pub(super) write_idle: Option<Text>,
    pub(super) connections: Option<Text>,
    pub(super) connections_per_address: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainKeys {
    pub(super) grace: Option<Text>,
}

pub(super) fn parse(text: &str) -> Result<File, Problem> {
    let mut within = String::new();
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            within = place(&error.path().to_string());
            error.into_inner()
        })
    })
    .map_err(|error| explain(&error, &within))
}

/// The sentence for what the parser found. `within` is the path of keys to it.
fn explain(error: &Error, within: &str) -> Problem {
    let at = error.location().map(|location| (location.line(), location.column()));
    let text = match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown(field, expected, within),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` stands twice{}: remove one", inside(parent(within)))
        }
        Error::Eof { .. } => "the file ends too early".to_owned(),
        Error::MultipleDocuments { .. } => {
            "a second document starts here: one file is one document".to_owned()
        }
        Error::Unexpected { expected, .. } => format!("{}{}", wanted(expected), of(within)),
        Error::InvalidScalar { .. } | Error::InvalidBooleanStrict { .. } | Error::SerdeInvalidType { .. } => {
            format!("expected true or false{}", of(within))
        }
        Error::NullIntoString { .. } => format!("expected a value{}", of(within)),
        other => format!("not YAML: {}", without_place(&other.to_string())),
    };
    Problem { at, text }
}

fn unknown(field: &str, expected: &[&str], within: &str) -> String {
    let nearest = nearest(field, expected.iter().copied());
    let advice = match nearest {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known here: {}", expected.join(", ")),
    };
    format!("unknown key `{}`{}; {advice}", field.escape_debug(), inside(parent(within)))
}

/// What somebody may have meant: a known word at most two typing mistakes away, or one that differs by less than a third.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

fn wanted(expected: &str) -> &'static str {
    if expected.starts_with("sequence") {
        "expected a list"
    } else if expected.starts_with("mapping") {
        "expected keys and values"
    } else {
        "expected a single value"
    }
}

/// `services.value[0].value.upstrem` → `services[0].upstrem`: the parser's wrapper for positions is not in the file.
fn place(path: &str) -> String {
    if path == "." { String::new() } else { path.replace(".value", "") }
}

fn parent(place: &str) -> &str {
    place.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn inside(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" in {place}") }
}

fn of(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" for {place}") }
}

/// The position goes in front, once.
fn without_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}
