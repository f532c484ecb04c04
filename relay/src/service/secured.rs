//! What the files that a service names hold: the TLS of its door, and that toward its upstream. Read as a whole before any
//! port is bound, so that a missing file is a mistake in the configuration and not an outage later.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use culvert_certs::tls::{Trust, certificates, door_server, origin_client, private_key};
use culvert_protocol::origin::{Speaks, Tls};
use rustls::ClientConfig;
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use crate::config::{Config, ConfigError, DoorTls, Service, Upstream, UpstreamTls, UpstreamTrust};

/// The TLS of one service, ready for use.
pub(crate) struct Secured {
    pub(crate) door: Option<TlsAcceptor>,
    pub(crate) upstream: Speaks,
}

impl Secured {
    /// Of every service, in the configuration's order. Reads files.
    pub(crate) fn read(config: &Config) -> Result<Vec<Self>, ConfigError> {
        let mut system = None;
        config.services.iter().map(|service| Self::of(service, &mut system)).collect()
    }

    fn of(service: &Service, system: &mut Option<ClientConfig>) -> Result<Self, ConfigError> {
        let door = service.tls.as_ref().map(|tls| door(tls, service)).transpose()?;
        let upstream = match &service.upstream {
            Upstream::Http { .. } | Upstream::Unix { .. } => Speaks::Http1,
            Upstream::H2c { .. } => Speaks::Http2,
            Upstream::Https { tls, .. } => {
                Speaks::Tls(Tls::new(origin(tls, service, system)?, tls.name.clone()))
            }
        };
        Ok(Self { door, upstream })
    }
}

fn door(tls: &DoorTls, service: &Service) -> Result<TlsAcceptor, ConfigError> {
    let chain = certificates(&tls.certificate).map_err(wrong(service, "tls.certificate"))?;
    let key = private_key(&tls.key).map_err(wrong(service, "tls.key"))?;
    if let Some(mode) = key.open_to_others {
        warn!(
            service = %service.name,
            "{} can be read by other users of this machine (mode {mode:04o})", tls.key.display()
        );
    }
    let config = door_server(chain, key.key).map_err(wrong(service, "tls"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The system's authorities are read once, and shared.
fn origin(
    tls: &UpstreamTls,
    service: &Service,
    system: &mut Option<ClientConfig>,
) -> Result<ClientConfig, ConfigError> {
    let trusting = |trust| origin_client(trust).map_err(wrong(service, "upstream_tls"));
    match &tls.trust {
        UpstreamTrust::System => match system {
            Some(config) => Ok(config.clone()),
            None => Ok(system.insert(trusting(Trust::System)?).clone()),
        },
        UpstreamTrust::File(path) => trusting(Trust::Authority(authorities(path, service)?)),
        UpstreamTrust::Nobody => {
            warn!(
                service = %service.name,
                "{} is not verified (`verify: false`): whoever is in between can read and change everything",
                service.upstream
            );
            trusting(Trust::Nobody)
        }
    }
}

fn authorities(
    path: &Path,
    service: &Service,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, ConfigError> {
    certificates(path).map_err(wrong(service, "upstream_tls.ca"))
}

fn wrong<E: Error + Send + Sync + 'static>(
    service: &Service,
    key: &'static str,
) -> impl FnOnce(E) -> ConfigError {
    let service = service.name.clone();
    move |source| ConfigError::Tls { service, key, source: Box::new(source) }
}
