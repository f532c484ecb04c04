//! The enrolment of a developer: a join token and a certificate request against a certificate. One question, one answer.
//!
//! Whatever is wrong with a token has one answer and takes the same work, so that nothing can be learnt by trying. Only
//! who knows the secret is told that it came too late. A request that cannot be signed leaves the token as it was.
//!
//! Wrong tokens are counted by address, and over a limit not even called wrong. Behind an ingress everybody has one address:
//! what a stranger does there keeps nobody out whose token is right, so the token is looked at first.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use culvert_certs::{DeveloperName, Issued, JoinToken, LeafError, TokenHash, TokenId, encode_certificate};
use culvert_protocol::hello::{
    FromJoiner, HelloError, Join, Joined, Messages, RefusedCode, ToJoiner, write_message,
};
use tokio::io::{AsyncWriteExt as _, split};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::error;

use super::leaving::{Left, Turned};
use super::strangers::Seat;
use super::websocket::Outer;
use super::{HANDSHAKE, Port};
use crate::store::{StoreError, TokenRefused};

/// Of a developer's certificate: a working day and the night after it.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Somebody who would join. The relay has proved itself to them; they are nobody yet.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) stream: Box<TlsStream<Outer>>,
    pub(super) remote: SocketAddr,
    /// Held to the end: joiners are strangers.
    pub(super) seat: Seat,
}

/// Why there is no certificate.
#[derive(Debug)]
struct Refusal {
    code: RefusedCode,
    message: String,
    label: &'static str,
}

pub(super) async fn answer(joiner: Joiner, port: &Port) -> Result<Left, Turned> {
    let Joiner { stream, remote, seat: _seat } = joiner;
    let (read, mut write) = split(stream);
    let mut messages = Messages::new(read);
    let asked = timeout(HANDSHAKE, messages.next()).await.map_err(|_| Turned::Silent)??;
    let Some(FromJoiner::Join(join)) = asked else { return Err(Turned::NoHello) };
    let (said, result) = match enrol(&join, remote.ip(), port).await {
        Ok((name, joined)) => {
            port.metrics.joined("joined");
            (ToJoiner::Joined(joined), Ok(Left::Enrolled(name)))
        }
        Err(Refusal { code, message, label }) => {
            port.metrics.joined(label);
            (ToJoiner::Refused { code, message }, Err(Turned::Join(label)))
        }
    };
    let telling = async {
        write_message(&mut write, &said).await?;
        write.shutdown().await.map_err(HelloError::Stream)
    };
    timeout(HANDSHAKE, telling).await.map_err(|_| Turned::Slow)??;
    result
}

async fn enrol(join: &Join, from: IpAddr, port: &Port) -> Result<(DeveloperName, Joined), Refusal> {
    let now = SystemTime::now();
    let checked = port.store.check(shown(join, port), now).await.map_err(|error| failed(&error))?;
    let (id, name) = checked.map_err(|refused| match refused {
        TokenRefused::Unknown if !port.strangers.may_guess(from) => busy(),
        TokenRefused::Unknown | TokenRefused::Expired | TokenRefused::UsedUp => denied(refused),
    })?;
    let issued = sign(join, &name, port, now)?;
    port.store.spend(id, now).await.map_err(|error| failed(&error))?.map_err(denied)?;
    let joined = Joined {
        certificate: issued.pem(),
        authority: encode_certificate(port.authority.certificate()),
        name: name.to_string(),
        relay: port.relay.clone(),
    };
    Ok((name, joined))
}

/// The token that was shown, as its whole text. One that is for another relay is as good as none.
fn shown(join: &Join, port: &Port) -> Option<(TokenId, TokenHash)> {
    let token = JoinToken::parse(join.secret.reveal().as_bytes()).ok()?;
    let ours = token.authority() == port.authority.fingerprint() && token.id().to_string() == join.token_id;
    ours.then(|| (token.id(), token.hash()))
}

fn sign(join: &Join, name: &DeveloperName, port: &Port, now: SystemTime) -> Result<Issued, Refusal> {
    port.authority.sign_csr(join.csr.as_bytes(), name, LIFETIME, now).map_err(|cause| match cause {
        LeafError::Refused(refused) => {
            Refusal { code: RefusedCode::Request, message: refused.to_string(), label: "request" }
        }
        other => {
            error!("signing a certificate for {name}: {other}");
            internal()
        }
    })
}

fn denied(refused: TokenRefused) -> Refusal {
    let (message, label) = match refused {
        TokenRefused::Unknown => ("denied: the join token is not valid here", "denied"),
        TokenRefused::Expired => ("denied: the join token has expired: ask for a new one", "expired"),
        TokenRefused::UsedUp => ("denied: the join token is used up: ask for a new one", "used_up"),
    };
    Refusal { code: RefusedCode::Denied, message: message.to_owned(), label }
}

fn busy() -> Refusal {
    let message = "too many failed tries from this address: wait a minute".to_owned();
    Refusal { code: RefusedCode::Busy, message, label: "rate_limited" }
}

fn failed(cause: &StoreError) -> Refusal {
    error!("answering an enrolment: {cause}");
    internal()
}

fn internal() -> Refusal {
    let message = "the relay could not answer: see its log".to_owned();
    Refusal { code: RefusedCode::Busy, message, label: "internal" }
}
