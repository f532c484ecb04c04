//! Which files make a door's TLS, and whom an upstream is believed by. Paths and names only: the files are read when the
//! relay starts ([`crate::service`]), and again whenever they may have changed.

use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;
use serde_saphyr::Spanned;

use super::file::{DoorTlsKeys, Text, UpstreamTlsKeys};
use super::resolve::{at, shown};
use super::{Problem, Upstream};

/// What a front door shows to callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorTls {
    /// PEM: the door's own certificate, and after it those that lead to an authority.
    pub certificate: PathBuf,
    /// PEM: the key of the first of them.
    pub key: PathBuf,
}

/// How an `https` upstream is known to be itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub trust: UpstreamTrust,
    /// What its certificate must be for, and what it is asked for by (SNI): its host, unless said otherwise.
    pub name: ServerName<'static>,
}

/// Whose word counts on who an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTrust {
    /// The authorities that the system trusts.
    System,
    /// Those in a PEM file, and no other.
    File(PathBuf),
    /// Nobody's: `verify: false`.
    Nobody,
}

impl UpstreamTls {
    /// What holds when nothing else is said.
    pub(super) fn of(name: ServerName<'static>) -> Self {
        Self { trust: UpstreamTrust::System, name }
    }
}

/// Completes an upstream with what is said of its TLS.
pub(super) fn upstream(
    keys: Option<Spanned<UpstreamTlsKeys>>,
    upstream: &mut Upstream,
    beside: &Path,
) -> Result<(), Problem> {
    let Some(keys) = keys else { return Ok(()) };
    let Upstream::Https { tls, .. } = upstream else {
        return Err(at(&keys, format!("`upstream_tls` is for an https upstream, and {upstream} is none")));
    };
    let UpstreamTlsKeys { ca, verify, name } = keys.value;
    tls.trust = match (verify, ca) {
        (Some(false), Some(ca)) => {
            return Err(at(&ca, "a `ca` is never looked at with `verify: false`: remove one of the two"));
        }
        (Some(false), None) => UpstreamTrust::Nobody,
        (Some(true) | None, Some(ca)) => UpstreamTrust::File(path(&ca, "ca", beside)?),
        (Some(true) | None, None) => UpstreamTrust::System,
    };
    if let Some(name) = name {
        tls.name = ServerName::try_from(name.value.clone()).map_err(|_| {
            at(&name, format!("`{}` is neither a host name nor an address", shown(&name.value)))
        })?;
    }
    Ok(())
}

pub(super) fn door(keys: &Spanned<DoorTlsKeys>, beside: &Path) -> Result<DoorTls, Problem> {
    let missing = |key: &str| {
        at(keys, format!("`{key}` is missing in tls: a door shows a certificate and has its key"))
    };
    let certificate = keys.value.certificate.as_ref().ok_or_else(|| missing("certificate"))?;
    let key = keys.value.key.as_ref().ok_or_else(|| missing("key"))?;
    Ok(DoorTls { certificate: path(certificate, "certificate", beside)?, key: path(key, "key", beside)? })
}

/// A relative path starts beside the file that it stands in.
fn path(typed: &Text, key: &str, beside: &Path) -> Result<PathBuf, Problem> {
    if typed.value.is_empty() || typed.value.contains('\0') {
        return Err(at(
            typed,
            format!("`{}` is not a file's path: write where the {key} is", shown(&typed.value)),
        ));
    }
    Ok(beside.join(&typed.value))
}
