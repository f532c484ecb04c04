//! The developer's own process: where the client connects to for a request. Kept as it was declared: a host's name is
//! resolved at each connect, and nothing that a relay or a caller says ever changes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use culvert_certs::tls::Trust;
use rustls::pki_types::ServerName;

use crate::address::{excerpt, host_and_port, port_number, write_host_and_port};

/// `8080`, `HOST:PORT`, `http://HOST[:PORT]`, `h2c://HOST:PORT`, `https://HOST[:PORT]` or `unix:/path`. Hosts are names,
/// or IP addresses without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum App {
    /// HTTP/1.1 over TCP.
    Tcp { host: String, port: u16 },
    /// HTTP/2 over TCP, by prior knowledge (RFC 9113 §3.3).
    H2c { host: String, port: u16 },
    /// HTTP/2 or HTTP/1.1 over TLS, as the app chooses.
    Https {
        host: String,
        port: u16,
        /// What its certificate must be for.
        name: ServerName<'static>,
        trust: Trust,
    },
    /// HTTP/1.1 over a Unix socket.
    Unix(PathBuf),
}

impl App {
    /// On this machine.
    pub fn local(port: u16) -> Self {
        Self::Tcp { host: "127.0.0.1".to_owned(), port }
    }

    /// Whether a text was meant as an app, right or wrong, where it could also be a match: a number, anything with a
    /// scheme of ours, or `HOST:PORT` with nothing but digits after the colon. A match has a `=`, or white space
    /// after its colon.
    pub fn is_meant(text: &str) -> bool {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let schemes = ["http://", "https://", "h2c://", "unix:"];
        schemes.iter().any(|scheme| text.starts_with(scheme))
            || digits(text)
            || text.rsplit_once(':').is_some_and(|(host, port)| {
                digits(port) && !host.contains(|char: char| char == '=' || char.is_whitespace())
            })
    }

    fn url(scheme: &str, rest: &str) -> Result<Self, AppError> {
        let text = || excerpt(&format!("{scheme}://{rest}"));
        let form = || AppError::Form(text());
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(AppError::Target { text: text(), scheme: scheme.to_owned() });
        }
        let (host, port) = host_and_port(rest).filter(|(host, _)| is_host(host)).ok_or_else(form)?;
        let host = host.to_owned();
        match (scheme, port) {
            ("http", port) => Ok(Self::Tcp { host, port: port.unwrap_or(80) }),
            ("h2c", Some(port)) => Ok(Self::H2c { host, port }),
            ("h2c", None) => Err(AppError::NoPort(text())),
            ("https", port) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| form())?;
                Ok(Self::Https { host, port: port.unwrap_or(443), name, trust: Trust::System })
            }
            _ => Err(form()),
        }
    }
}

impl FromStr for App {
    type Err = AppError;

    fn from_str(text: &str) -> Result<Self, AppError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') && !path.contains('\0') {
                true => Ok(Self::Unix(path.into())),
                false => Err(AppError::Path(excerpt(text))),
            };
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Self::url(scheme, rest);
        }
        if let Some(port) = port_number(text) {
            return Ok(Self::local(port));
        }
        match host_and_port(text) {
            Some((host, Some(port))) if is_host(host) => Ok(Self::Tcp { host: host.to_owned(), port }),
            _ => Err(AppError::Form(excerpt(text))),
        }
    }
}

/// What a resolver can be asked for. A name that does not exist shows at the first request.
fn is_host(host: &str) -> bool {
    host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tcp { host, port } => ("", host, port),
            Self::H2c { host, port } => ("h2c://", host, port),
            Self::Https { host, port, .. } => ("https://", host, port),
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
        };
        f.write_str(scheme)?;
        write_host_and_port(f, host, *port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppError {
    #[error(
        "`{0}` is not an app: write 8080, localhost:8080, http://localhost:8080, h2c://localhost:8080, https://localhost:8443 or unix:/path"
    )]
    Form(String),
    #[error("`{0}`: h2c has no port of its own: write h2c://HOST:PORT")]
    NoPort(String),
    #[error("`{text}`: an app has no path of its own, it gets each request's: write {scheme}://HOST:PORT")]
    Target { text: String, scheme: String },
    #[error("`{0}`: a unix socket is written with its whole path: unix:/run/app.sock")]
    Path(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_named_in_any_of_its_forms() {
        for (typed, shown) in [
            ("8080", "127.0.0.1:8080"),
            ("localhost:3000", "localhost:3000"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:3000", "[::1]:3000"),
            ("http://app.internal:3000", "app.internal:3000"),
            ("http://app.internal/", "app.internal:80"),
            ("http://[::1]", "[::1]:80"),
            ("h2c://localhost:50051", "h2c://localhost:50051"),
            ("h2c://[::1]:50051/", "h2c://[::1]:50051"),
            ("https://localhost:8443", "https://localhost:8443"),
            ("https://app.internal/", "https://app.internal:443"),
            ("https://[::1]", "https://[::1]:443"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
        ] {
            let app: App = typed.parse().unwrap();
            assert_eq!(app.to_string(), shown, "{typed}");
            assert!(App::is_meant(typed), "{typed}");
            assert_eq!(shown.parse(), Ok(app), "{shown}");
        }
    }

    #[test]
    fn what_is_no_app_is_refused_with_what_to_write() {
        for (typed, said) in [
            ("0", "not an app"),
            ("65536", "not an app"),
            ("localhost:0", "not an app"),
            ("localhost:99999", "not an app"),
            ("::1", "not an app"),
            ("http://", "not an app"),
            ("http://user@localhost:1", "not an app"),
            ("https://", "not an app"),
            ("https://localhost:0", "not an app"),
            ("https://-:1", "not an app"),
            ("https://user@localhost:1", "not an app"),
            ("h2c://localhost", "write h2c://HOST:PORT"),
            ("h2c://", "not an app"),
            (
                "http://localhost:8080/base",
                "no path of its own, it gets each request's: write http://HOST:PORT",
            ),
            (
                "https://localhost:8443/base",
                "no path of its own, it gets each request's: write https://HOST:PORT",
            ),
            ("http://localhost?x", "no path of its own"),
            ("unix:run/app.sock", "unix:/run/app.sock"),
            ("unix:", "unix:/run/app.sock"),
        ] {
            let error = typed.parse::<App>().unwrap_err().to_string();
            assert!(error.contains(said), "{typed}: {error}");
            assert!(App::is_meant(typed), "{typed} would be read as a match");
        }
    }

    #[test]
    fn a_match_is_never_taken_for_an_app() {
        for typed in [
            "x-user=alice",
            "x-user: alice",
            "x-user: 3000",
            "x-url=http://localhost:3000",
            "x-user=a:1",
            "x-user",
            "!x-bot",
            "x-user^=al",
            "x-user=~^a",
            "",
        ] {
            assert!(!App::is_meant(typed), "{typed}");
        }
    }
}
