//! `culvert intercept`: claims requests of one service and serves them until it is stopped.

use std::ffi::{OsStr, OsString};
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_certs::tls::{Trust, certificates};
use culvert_protocol::intercept::{
    Action, Condition, Intercept, InterceptName, Matcher, Mode, OnUnreachable, Patience, ServiceName, Ttl,
};
use serde::Serialize;

use super::{CommandError, Global, Output, Surroundings, UsageError, print, profile};
use crate::address::{excerpt, port_number};
use crate::app::App;
use crate::dial::Rungs;
use crate::screen::because;
use crate::session::{Claim, GRACE, Options, Ready, Session};
use crate::signals::Signals;

/// Send the requests of a service that match to an app on this machine
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "culvert intercept [OPTIONS] SERVICE[:PORT] [APP] [MATCH]... [-H 'NAME: VALUE']...",
    after_help = AFTER_HELP
)]
pub struct Arguments {
    /// The service, and its port where APP is left out and has the same
    #[arg(value_name = "SERVICE[:PORT]")]
    service: String,
    /// Where the requests go, and which requests: see below
    #[arg(value_name = "APP | MATCH")]
    rest: Vec<OsString>,
    /// Requests with this header; may be given several times, and all must match
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<OsString>,
    /// All requests of the service, instead of those that match
    #[arg(long)]
    all: bool,
    /// The certificate authorities that an https APP is verified with, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", conflicts_with = "app_insecure")]
    app_ca: Option<PathBuf>,
    /// Take whatever certificate an https APP has
    #[arg(long)]
    app_insecure: bool,
    /// What this intercept is called; one with the same name takes it over [default: SERVICE:MATCH]
    #[arg(long)]
    name: Option<InterceptName>,
    /// What callers get while you cannot be reached: `upstream`, `hold:10s` (they wait so long for you, and then get the upstream)
    /// or `503` [default: hold:3s, with --all upstream]
    #[arg(long, value_name = "POLICY")]
    on_unreachable: Option<OnUnreachable>,
    /// Give the requests back after so long, as in 90s, 30m, 8h, 2d [default: when this ends]
    #[arg(long, value_name = "TIME")]
    ttl: Option<Ttl>,
    /// What carries the tunnel
    #[arg(long, value_enum, default_value_t)]
    transport: Rungs,
    #[command(flatten)]
    later: Later,
    #[arg(last = true, hide = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
APP    8080 | HOST:PORT | http[s]://HOST[:PORT] | h2c://HOST:PORT | unix:/path        right after SERVICE
MATCH  x-user=alice | 'x-user: alice' | -H 'x-user: alice'       every one must match

What stands right after SERVICE is APP when it is a number, HOST:NUMBER or has one of APP's schemes, and MATCH otherwise:
`x-user:8080` is the app on the host x-user, `x-user: 8080`, with the space, the header. Without APP the requests go to \
SERVICE's own PORT on this machine.

  culvert intercept orders 9002 -H 'x-user: alice'
  culvert intercept orders:8080 x-user=alice           the same as `orders 8080 x-user=alice`
  culvert intercept orders h2c://localhost:50051 x-user=alice
  culvert intercept orders https://localhost:8443 --app-ca ca.pem x-user=alice
  culvert intercept orders unix:/run/orders.sock --all";

/// What other releases know, so that it is refused by name instead of being taken for something else.
#[derive(Debug, Default, clap::Args)]
struct Later {
    #[arg(long, hide = true)]
    mode: Option<String>,
    #[arg(long, hide = true)]
    pass_status: Option<OsString>,
    #[arg(long, hide = true)]
    baggage: Vec<OsString>,
    #[arg(long, hide = true)]
    cookie: Vec<OsString>,
    #[arg(long, hide = true)]
    query: Vec<OsString>,
    #[arg(long, hide = true)]
    method: Vec<OsString>,
    #[arg(long, hide = true)]
    path: Vec<OsString>,
    #[arg(long, hide = true)]
    path_prefix: Vec<OsString>,
    #[arg(long, hide = true)]
    path_regex: Vec<OsString>,
    #[arg(long, hide = true)]
    host: Vec<OsString>,
    #[arg(long, hide = true)]
    or: bool,
    #[arg(long, hide = true)]
    require_app: bool,
}

impl Arguments {
    pub(super) async fn run(self, global: &Global, around: &Surroundings) -> Result<(), CommandError> {
        let (rungs, insecure) = (self.transport, self.app_insecure);
        let port = self.service_port();
        let claim = self.claim()?;
        let profile = profile(global, &around.profiles)?;
        let mut signals = Signals::new().map_err(CommandError::Signals)?;
        if insecure {
            let text = format!(
                "{} is not verified (--app-insecure): anything that listens there is taken for it",
                claim.app
            );
            around.screen.notice("app_insecure", &text);
        }
        let options = Options {
            profile,
            rungs,
            claims: vec![claim.clone()],
            screen: around.screen.clone(),
            grace: GRACE,
        };
        let mut session = Session::start_at_ports(options, vec![port])?;
        // Who cannot be asked how it is serves all the same.
        let _clerk = around.counter.as_ref().and_then(|counter| {
            let opened = counter.open(session.desk());
            opened.inspect_err(|error| tracing::warn!(%error, "`culvert status` will not show this one")).ok()
        });
        let ready = tokio::select! {
            ready = session.ready() => ready,
            () = signals.next() => None,
        };
        match ready {
            Some(ready) if global.output != Output::Table => {
                let data = Intercepting::of(&claim, &ready);
                print(&around.screen, global.output, &data, String::new)?;
            }
            Some(_) => {}
            // Asked to stop, or over: the second shows below.
            None => session.stop(),
        }
        tokio::select! {
            ended = session.ended() => return Ok(ended?),
            () = signals.next() => {}
        }
        around.screen.notice("leaving", "stopping: finishing what is under way (Ctrl-C again stops at once)");
        session.stop();
        tokio::select! {
            ended = session.ended() => return Ok(ended?),
            () = signals.next() => session.cut(),
        }
        Ok(session.ended().await?)
    }

    /// The port by which the service was named. Without an app it is the app's own, on this machine.
    fn service_port(&self) -> Option<u16> {
        let app_follows = self.rest.first().and_then(|first| first.to_str()).is_some_and(App::is_meant);
        if app_follows { service(&self.service).ok().and_then(|(_, port)| port) } else { None }
    }

    /// What is claimed, and for which app.
    pub(super) fn claim(self) -> Result<Claim, UsageError> {
        self.later.refuse()?;
        if !self.command.is_empty() {
            return Err(UsageError::new(
                "starting a command after `--` is not supported yet: start the app by itself",
            ));
        }
        let (service, port) = service(&self.service)?;
        let mut rest = self.rest.iter();
        let mut app = None;
        let mut matches = Vec::new();
        if let Some(first) = rest.next() {
            match first.to_str().filter(|text| App::is_meant(text)) {
                Some(text) => {
                    app = Some(text.parse::<App>().map_err(|error| UsageError::new(error.to_string()))?)
                }
                None => matches.push(first),
            }
        }
        for argument in rest {
            if argument.to_str().is_some_and(App::is_meant) {
                return Err(UsageError::advising(
                    format!(
                        "`{}` looks like an app, and an app stands right after the service",
                        quote(argument)
                    ),
                    format!("culvert intercept {service} {} MATCH", quote(argument)),
                ));
            }
            matches.push(argument);
        }
        let app = app.or_else(|| port.map(App::local)).ok_or_else(|| {
            UsageError::advising(
                "no app was named: which port does it listen on?",
                format!("culvert intercept {service} 8080 {}", example(&matches, &self.headers)),
            )
        })?;
        let app = believed(app, self.app_ca.as_deref(), self.app_insecure)?;
        let matcher = matcher(&matches, &self.headers)?;
        match (self.all, matcher.is_all_traffic()) {
            (false, true) => {
                return Err(UsageError::advising(
                    "no match was given: which requests are yours?",
                    format!("culvert intercept {service} {app} -H 'x-user: me', or --all for every request"),
                ));
            }
            (true, false) => {
                return Err(UsageError::new(
                    "--all takes every request, and a match only some: give one of the two",
                ));
            }
            (true, true) | (false, false) => {}
        }
        let name = match self.name {
            Some(name) => name,
            None => default_name(&service, &matcher)?,
        };
        let on_unreachable = self.on_unreachable.unwrap_or_else(|| usual_policy(&matcher));
        let intercept = Intercept {
            name,
            service,
            matcher,
            mode: Mode::Steal,
            on_unreachable,
            action: Action::Tunnel,
            ttl: self.ttl,
        };
        Ok(Claim { intercept, app })
    }
}

/// Who claims some requests would rather have them a moment late than not at all; who claims all of them holds up everybody.
fn usual_policy(matcher: &Matcher) -> OnUnreachable {
    const HOLD: Duration = Duration::from_secs(3);
    match Patience::new(HOLD) {
        Some(patience) if !matcher.is_all_traffic() => OnUnreachable::Hold(patience),
        _ => OnUnreachable::Upstream,
    }
}

/// `SERVICE[:PORT]`.
fn service(text: &str) -> Result<(ServiceName, Option<u16>), UsageError> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => {
            let number = port_number(port).ok_or_else(|| {
                UsageError::advising(
                    format!("`{}` is not a service with its port", excerpt(text)),
                    "culvert intercept orders:8080 -H 'x-user: me'",
                )
            })?;
            (name, Some(number))
        }
        None => (text, None),
    };
    let name = name.parse::<ServiceName>().map_err(|error| UsageError::new(error.to_string()))?;
    Ok((name, port))
}

/// The app, with whom its certificate is believed by.
fn believed(mut app: App, authority: Option<&Path>, insecure: bool) -> Result<App, UsageError> {
    let (option, said) = match (authority, insecure) {
        (None, false) => return Ok(app),
        (Some(path), _) => {
            let read = certificates(path)
                .map_err(|error| UsageError::new(format!("--app-ca: {}", because(&error))))?;
            ("--app-ca", Trust::Authority(read))
        }
        (None, true) => ("--app-insecure", Trust::Nobody),
    };
    let App::Https { trust, .. } = &mut app else {
        return Err(UsageError::new(format!("{option} is for an app over https, and {app} is none")));
    };
    *trust = said;
    Ok(app)
}

fn matcher(matches: &[&OsString], headers: &[OsString]) -> Result<Matcher, UsageError> {
    let refused = |error: culvert_protocol::intercept::MatchError| UsageError::new(error.to_string());
    let mut conditions = Vec::new();
    for text in matches {
        conditions.push(Condition::parse(text.as_encoded_bytes()).map_err(refused)?);
    }
    for text in headers {
        // As curl reads it, and only so: `-H x-user=alice` would be a header without a value there.
        let bytes = text.as_encoded_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let equals = bytes.iter().position(|byte| *byte == b'=');
        if colon.is_none_or(|colon| equals.is_some_and(|equals| equals < colon)) {
            return Err(UsageError::advising(
                format!("`{}` is not a header as -H takes it", quote(text)),
                "-H 'x-user: alice', or without -H: x-user=alice",
            ));
        }
        conditions.push(Condition::parse(bytes).map_err(refused)?);
    }
    Matcher::new(conditions).map_err(refused)
}

/// The same command has the same name, so that it takes over from itself. What is too long for a name keeps its
/// beginning, for people, and a hash of all of it.
fn default_name(service: &ServiceName, matcher: &Matcher) -> Result<InterceptName, UsageError> {
    let text = format!("{service}:{matcher}");
    if let Ok(name) = text.parse() {
        return Ok(name);
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(text.as_bytes());
    let mut short: String = text.chars().filter(|char| char.is_ascii_graphic()).take(100).collect();
    short.push_str(&format!("~{:016x}", hash.finish()));
    short.parse().map_err(|_| UsageError::new("this match needs a name of its own: give one with --name"))
}

/// FNV-1a: the same in every release, unlike the standard library's. Nobody gains by a collision of their own names.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Later {
    fn refuse(&self) -> Result<(), UsageError> {
        let asked = [
            (self.mode.as_deref().is_some_and(|mode| mode != "steal"), "--mode other than steal"),
            (self.pass_status.is_some(), "--pass-status"),
            (!self.baggage.is_empty(), "a match on baggage"),
            (!self.cookie.is_empty(), "a match on a cookie"),
            (!self.query.is_empty(), "a match on the query"),
            (!self.method.is_empty(), "a match on the method"),
            (!self.path.is_empty(), "a match on the path"),
            (!self.path_prefix.is_empty(), "a match on the path's beginning"),
            (!self.path_regex.is_empty(), "a match on a pattern of the path"),
            (!self.host.is_empty(), "a match on the host"),
            (self.or, "--or"),
            (self.require_app, "--require-app"),
        ];
        match asked.into_iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(UsageError::advising(
                format!("{what} is not supported yet: only exact header values are"),
                "culvert intercept orders 8080 -H 'x-user: me'",
            )),
            None => Ok(()),
        }
    }
}

/// What is printed on stdout, once, with `-o json` and `-o yaml`, when the claim is in force.
#[derive(Debug, Serialize)]
struct Intercepting<'a> {
    relay: &'a str,
    identity: &'a str,
    transport: &'static str,
    name: &'a str,
    service: &'a str,
    #[serde(rename = "match")]
    matcher: String,
    app: String,
    listen: &'a [String],
}

impl<'a> Intercepting<'a> {
    fn of(claim: &'a Claim, ready: &'a Ready) -> Self {
        let intercept = &claim.intercept;
        Self {
            relay: &ready.relay,
            identity: &ready.identity,
            transport: ready.transport.label(),
            name: intercept.name.as_str(),
            service: intercept.service.as_str(),
            matcher: intercept.matcher.to_string(),
            app: claim.app.to_string(),
            listen: ready.listen.first().map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

/// The match as it was typed, to be typed again.
fn example(matches: &[&OsString], headers: &[OsString]) -> String {
    match (matches, headers) {
        ([], []) => "-H 'x-user: me'".to_owned(),
        ([], [header, ..]) => format!("-H '{}'", quote(header)),
        ([first, ..], _) => format!("'{}'", quote(first)),
    }
}

fn quote(text: &OsStr) -> String {
    excerpt(&text.to_string_lossy())
}
