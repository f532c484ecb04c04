//! `relay.yaml` as typed → [`Config`]: text becomes types, and what is valid alone but not together is refused.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use culvert_protocol::intercept::{NameError, ServiceName};
use rustls::pki_types::ServerName;
use serde_saphyr::Spanned;

use super::file::{AdminKeys, File, LimitsKeys, ServiceKeys, Text, TunnelKeys};
use super::manners::manners;
use super::{Admin, Config, Drain, Limits, Problem, Service, Tunnel, Upstream, tls};

/// Longer is a typing mistake, and would overflow a deadline's arithmetic in the end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

const NO_SERVICES: &str =
    "no services: name at least one under `services:`, with a listen address and an upstream";

const DATA: &str = "culvert-data";

pub(super) fn config(file: File, beside: &Path) -> Result<Config, Problem> {
    let defaults = limits(file.limits.unwrap_or_default(), &Limits::default())?;
    let mut taken = Taken::default();
    let tunnel = tunnel(file.tunnel, &mut taken)?;
    let admin = admin(file.admin, &mut taken)?;
    let listed = file.services.ok_or_else(|| Problem { at: None, text: NO_SERVICES.to_owned() })?;
    if listed.value.is_empty() {
        return Err(at(&listed, NO_SERVICES));
    }
    let mut services = Vec::with_capacity(listed.value.len());
    for keys in listed.value {
        services.push(service(keys, &services, &defaults, beside, &mut taken)?);
    }
    let grace = file.drain.and_then(|drain| drain.grace);
    Ok(Config {
        data: beside.join(file.data.map_or_else(|| DATA.to_owned(), |data| data.value)),
        tunnel,
        admin,
        services,
        drain: Drain { grace: grace.map_or(Ok(Drain::GRACE), |grace| duration(&grace, Duration::ZERO))? },
    })
}

fn tunnel(keys: Option<TunnelKeys>, taken: &mut Taken) -> Result<Tunnel, Problem> {
    let TunnelKeys { listen, websocket, names, replicas, claims } = keys.unwrap_or_default();
    let listen = listen_address(listen.as_ref(), Tunnel::LISTEN, "tunnel", taken)?;
    let websocket = websocket
        .map(|typed| listen_address(Some(&typed), Tunnel::LISTEN, "tunnel.websocket", taken))
        .transpose()?;
    let names = match names {
        None => own_names(listen.ip()),
        Some(names) if names.value.is_empty() => {
            return Err(at(&names, "no names: write how clients dial the relay, or leave the key out"));
        }
        Some(names) => names.value.into_iter().map(server_name).collect::<Result<_, _>>()?,
    };
    let replicas = replicas.map_or(Ok(1), |typed| self::replicas(&typed))?;
    let claims = claims.map_or(Ok(Tunnel::CLAIMS), |typed| count(&typed))?;
    Ok(Tunnel { listen, websocket, names, replicas, claims })
}

/// Without names, what reaches the relay from its own machine, and the address it listens on when that is a certain one.
fn own_names(listen: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let listen = listen.to_string();
    if !names.contains(&listen) && listen != "0.0.0.0" && listen != "::" {
        names.push(listen);
    }
    names
}

fn server_name(name: Text) -> Result<String, Problem> {
    if ServerName::try_from(name.value.as_str()).is_err() {
        let problem =
            format!("`{}` is neither a host name nor an address that clients could dial", shown(&name.value));
        return Err(at(&name, problem));
    }
    Ok(name.value)
}

fn admin(keys: Option<AdminKeys>, taken: &mut Taken) -> Result<Admin, Problem> {
    let listen = keys.and_then(|keys| keys.listen);
    Ok(Admin { listen: listen_address(listen.as_ref(), Admin::LISTEN, "admin", taken)? })
}

fn service(
    keys: Spanned<ServiceKeys>,
    before: &[Service],
    defaults: &Limits,
    beside: &Path,
    taken: &mut Taken,
) -> Result<Service, Problem> {
    let place = position(&keys);
    let missing =
        |key: &str| Problem { at: place, text: format!("`{key}` is missing in services[{}]", before.len()) };
    let mut keys = keys.value;
    let typed_name = keys.name.take().ok_or_else(|| missing("name"))?;
    let typed_listen = keys.listen.take().ok_or_else(|| missing("listen"))?;
    let typed_upstream = keys.upstream.take().ok_or_else(|| missing("upstream"))?;
    let name: ServiceName =
        typed_name.value.parse().map_err(|error: NameError| at(&typed_name, error.to_string()))?;
    if before.iter().any(|service| service.name == name) {
        return Err(at(&typed_name, format!("a service named `{name}` stands above: names are unique")));
    }
    let listen = address(&typed_listen)?;
    taken.take(listen, format!("service `{name}`"), Some(&typed_listen))?;
    let mut upstream: Upstream = typed_upstream.value.parse().map_err(|error| {
        at(&typed_upstream, format!("`{}`: {error}", without_user(&typed_upstream.value)))
    })?;
    tls::upstream(keys.upstream_tls.take(), &mut upstream, beside)?;
    Ok(Service {
        name,
        listen,
        manners: manners(&keys, &upstream)?,
        upstream,
        tls: keys.tls.as_ref().map(|keys| tls::door(keys, beside)).transpose()?,
        limits: keys.limits.map_or_else(|| Ok(defaults.clone()), |keys| limits(keys, defaults))?,
        all_traffic: keys.all_traffic.unwrap_or(false),
    })
}

fn limits(keys: LimitsKeys, defaults: &Limits) -> Result<Limits, Problem> {
    let time = |typed: Option<Text>, default| typed.map_or(Ok(default), |typed| duration(&typed, SHORTEST));
    let number = |typed: Option<Text>, default| typed.map_or(Ok(default), |typed| count(&typed));
    Ok(Limits {
        head_read: time(keys.head_read, defaults.head_read)?,
        keep_alive: time(keys.keep_alive, defaults.keep_alive)?,
        body_idle: time(keys.body_idle, defaults.body_idle)?,
        connect: time(keys.connect, defaults.connect)?,
        response_head: time(keys.response_head, defaults.response_head)?,
        response_idle: time(keys.response_idle, defaults.response_idle)?,
        write_idle: time(keys.write_idle, defaults.write_idle)?,
        connections: number(keys.connections, defaults.connections)?,
        connections_per_address: number(keys.connections_per_address, defaults.connections_per_address)?,
    })
}

/// A limit of no time at all would refuse everything.
const SHORTEST: Duration = Duration::from_millis(1);

fn duration(typed: &Text, shortest: Duration) -> Result<Duration, Problem> {
    parse_duration(&typed.value).filter(|duration| (shortest..=LONGEST).contains(duration)).ok_or_else(|| {
        let problem =
            format!("`{}` is not a time: write 500ms, 10s, 2m or 1h, at most 24h", shown(&typed.value));
        at(typed, problem)
    })
}

/// A time as people write it: a whole number and its unit, from milliseconds to hours.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

fn count(typed: &Text) -> Result<usize, Problem> {
    const MOST: usize = 1_000_000;
    let plain = typed.value.bytes().all(|byte| byte.is_ascii_digit());
    match typed.value.parse() {
        Ok(count) if plain && (1..=MOST).contains(&count) => Ok(count),
        _ => Err(at(typed, format!("`{}` is not a number from 1 to {MOST}", shown(&typed.value)))),
    }
}

fn replicas(typed: &Text) -> Result<u32, Problem> {
    const MOST: usize = 64;
    let count = count(typed).ok().filter(|count| *count <= MOST).and_then(|count| u32::try_from(count).ok());
    count.ok_or_else(|| at(typed, format!("`{}` is not a number from 1 to {MOST}", shown(&typed.value))))
}

fn listen_address(
    typed: Option<&Text>,
    default: &str,
    owner: &str,
    taken: &mut Taken,
) -> Result<SocketAddr, Problem> {
    let listen = match typed {
        Some(typed) => address(typed)?,
        None => default.parse().map_err(|_| Problem { at: None, text: format!("bad default {default}") })?,
    };
    taken.take(listen, owner.to_owned(), typed)?;
    Ok(listen)
}

fn address(typed: &Text) -> Result<SocketAddr, Problem> {
    typed.value.parse().map_err(|_| {
        let problem = format!(
            "`{}` is not an address to listen on: write an IP address and a port, as in 0.0.0.0:8080 or [::1]:8080",
            shown(&typed.value)
        );
        at(typed, problem)
    })
}

/// Who listens where. Two listeners on one address would only be noticed when the second is bound.
#[derive(Default)]
struct Taken(Vec<(SocketAddr, String)>);

impl Taken {
    fn take(&mut self, listen: SocketAddr, owner: String, typed: Option<&Text>) -> Result<(), Problem> {
        let meets = |(other, _): &&(SocketAddr, String)| {
            // Port 0 is any free port, never the same one twice. Every address of the machine takes each of them in.
            listen.port() != 0
                && other.port() == listen.port()
                && (other.ip() == listen.ip() || other.ip().is_unspecified() || listen.ip().is_unspecified())
        };
        if let Some((other, holder)) = self.0.iter().find(meets) {
            let text = format!("{owner} would listen on {listen}, where {holder} listens already ({other})");
            return Err(Problem { at: typed.and_then(position), text });
        }
        self.0.push((listen, owner));
        Ok(())
    }
}

pub(super) fn at<T>(spanned: &Spanned<T>, problem: impl Into<String>) -> Problem {
    Problem { at: position(spanned), text: problem.into() }
}

fn position<T>(spanned: &Spanned<T>) -> Option<(u64, u64)> {
    Some((spanned.referenced.line(), spanned.referenced.column()))
}

/// A refused text, as far as an error may repeat it.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    text.chars().take(LONGEST).flat_map(char::escape_debug).collect()
}

/// A URL may hold a password, which no error repeats.
fn without_user(url: &str) -> String {
    match (url.split_once("//"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => shown(&format!("{scheme}//…@{host}")),
        _ => shown(url),
    }
}
