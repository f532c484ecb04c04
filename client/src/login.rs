//! The first contact: a join token and a key made here, against a certificate. The token's fingerprint says which relay
//! may see the token at all; the key does not leave this machine. Keeps nothing: that is [`crate::profile`]'s.
//!
//! ```text
//! client -> relay   TLS, whose certificate leads to the authority that the token names
//!                   Join { token, certificate request }
//! relay -> client   Joined { certificate } | Refused
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use culvert_certs::tls::{HandshakeFailure, TlsError};
use culvert_certs::{
    DeveloperKey, DeveloperKeyError, JoinToken, NotACertificate, NotAnIdentity, decode_certificate,
    find_authority,
};
use culvert_protocol::hello::{
    FromJoiner, HelloError, Join, JoinSecret, Joined, Messages, RefusedCode, ToJoiner, write_message,
};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::address::RelayAddress;
use crate::dial::{self, DialError, Missed, Network, Outer, SetupError, Streams, Why};
use crate::exit::Exit;
use crate::profile::Profile;
use culvert_protocol::tunnel::Transport;

/// How long the relay may take to sign.
const ANSWER: Duration = Duration::from_secs(10);

/// Logs in. The profile is not kept yet, and its key exists nowhere else.
pub async fn login(relay: &RelayAddress, token: &JoinToken) -> Result<Profile, LoginError> {
    login_through(&Network::default(), relay, token).await
}

/// The same by way of a proxy, where there is one.
pub async fn login_through(
    network: &Network,
    relay: &RelayAddress,
    token: &JoinToken,
) -> Result<Profile, LoginError> {
    let key = DeveloperKey::generate()?;
    let request = FromJoiner::Join(Join {
        token_id: token.id().to_string(),
        secret: JoinSecret::new(token.reveal().expose().clone()),
        csr: key.request()?,
    });
    let mut stream = connect(network, relay, token).await?;
    // From the handshake, and not from the answer: this is the one that the token vouches for.
    let authority = authority(&stream, token).ok_or_else(|| LoginError::not_the_relay(relay))?;
    let joined = ask(&mut stream, &request).await.map_err(|cause| cause.at(relay))?;
    // The answer is here whole; a relay that does not hear us go notices by itself.
    let _ = timeout(dial::FAREWELL, stream.shutdown()).await;

    let certificate = decode_certificate(joined.certificate.as_bytes())?;
    let profile = Profile::new(relay.clone(), key, certificate, vec![authority])?;
    // Fails when the certificate is for another key than ours: better now than at the first tunnel.
    profile.tls()?;
    Ok(profile)
}

/// Over TCP: one question and its answer are not worth a tunnel.
async fn connect(
    network: &Network,
    relay: &RelayAddress,
    token: &JoinToken,
) -> Result<TlsStream<Outer>, LoginError> {
    let config = Arc::new(culvert_certs::tls::join_client(token.authority())?);
    let streams = Streams::new(relay, network.source)?;
    let (config, streams) = (&config, &streams);
    let rungs = [Transport::Tls, Transport::WebSocket].map(|rung| (rung, dial::HEAD_START));
    // Nobody enrols over QUIC.
    let answers = dial::Answers::awaited(Duration::ZERO);
    let (won, missed) = dial::climb(relay, &network.proxies, &[], rungs, &answers, |way| {
        Box::pin(async move { dial::tls::connect(config, streams, &way).await })
    })
    .await;
    won.ok_or_else(|| dial::no_rung(relay, missed).into())
}

fn authority(stream: &TlsStream<Outer>, token: &JoinToken) -> Option<CertificateDer<'static>> {
    let (_, connection) = stream.get_ref();
    let authority = find_authority(connection.peer_certificates()?, &token.authority())?;
    Some(authority.clone().into_owned())
}

async fn ask(stream: &mut TlsStream<Outer>, request: &FromJoiner) -> Result<Joined, Unanswered> {
    let asking = async {
        write_message(stream, request).await?;
        let mut messages = Messages::new(stream);
        loop {
            match messages.next::<ToJoiner>().await? {
                Some(ToJoiner::Joined(joined)) => return Ok(joined),
                Some(ToJoiner::Refused { code, message }) => return Err(Unanswered::Refused(code, message)),
                // A newer relay may say more than we know.
                Some(ToJoiner::Unknown(_)) => {}
                None => return Err(Unanswered::Broken(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            }
        }
    };
    timeout(ANSWER, asking)
        .await
        .unwrap_or_else(|_| Err(Unanswered::Broken(io::Error::from(io::ErrorKind::TimedOut).into())))
}

/// Why a relay that was reached gave no certificate.
enum Unanswered {
    Refused(RefusedCode, String),
    Broken(HelloError),
}

impl From<HelloError> for Unanswered {
    fn from(cause: HelloError) -> Self {
        Self::Broken(cause)
    }
}

impl Unanswered {
    fn at(self, relay: &RelayAddress) -> LoginError {
        let relay = relay.clone();
        match self {
            Self::Refused(code, message) => LoginError::Refused { relay, code, message },
            Self::Broken(cause) => LoginError::NoAnswer { relay, cause },
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    #[error("{}", unreached(.0))]
    Dial(#[from] DialError),
    #[error("logging in at {relay}: the relay refuses: {message}")]
    Refused { relay: RelayAddress, code: RefusedCode, message: String },
    #[error("logging in at {relay}: waiting for the relay's answer")]
    NoAnswer {
        relay: RelayAddress,
        #[source]
        cause: HelloError,
    },
    #[error("reading the certificate that the relay gave: {0}")]
    Certificate(#[from] NotACertificate),
    #[error(transparent)]
    Identity(#[from] NotAnIdentity),
    #[error(transparent)]
    Key(#[from] DeveloperKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl LoginError {
    fn not_the_relay(relay: &RelayAddress) -> Self {
        let why = Why::Handshake(HandshakeFailure::NotThisRelay);
        let missed = vec![Missed { rung: Transport::Tls, place: None, why }];
        DialError::NoRung { relay: relay.clone(), missed }.into()
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Dial(error) if error.verdict().is_some() => Exit::Denied,
            Self::Refused { .. } => Exit::Denied,
            Self::Dial(_) | Self::NoAnswer { .. } => Exit::Unreachable,
            Self::Setup(SetupError::Address(_)) => Exit::Usage,
            // The relay, or this machine, made something that is none.
            Self::Certificate(_) | Self::Identity(_) | Self::Key(_) | Self::Tls(_) | Self::Setup(_) => {
                Exit::Internal
            }
        }
    }

    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Dial(error) => Some(match error.verdict() {
                Some(HandshakeFailure::NameMismatch) => {
                    "one of the names in the relay's `tunnel.names`, or add this one there".to_owned()
                }
                Some(_) => {
                    "the address of the relay that made the token; if it is the right one, somebody is \
                            in between, or the relay has a new authority: ask for a new token"
                        .to_owned()
                }
                None => error.advice(),
            }),
            Self::Refused { code: RefusedCode::Busy, .. } => Some("again in a minute".to_owned()),
            Self::Refused { .. } => Some(
                "a new token: whoever runs the relay makes one with `culvert-relay token create NAME`"
                    .to_owned(),
            ),
            Self::NoAnswer { .. }
            | Self::Certificate(_)
            | Self::Identity(_)
            | Self::Key(_)
            | Self::Tls(_)
            | Self::Setup(_) => None,
        }
    }
}

/// Said plainly where it matters most: the token was not shown to anybody.
fn unreached(error: &DialError) -> String {
    let relay = error.relay();
    match error.verdict() {
        Some(HandshakeFailure::NotThisRelay) => {
            format!(
                "logging in at {relay}: this is not the relay that made the token: refusing, and the token was not shown to it"
            )
        }
        Some(failure) => format!("logging in at {relay}: {failure}"),
        None => error.to_string(),
    }
}
