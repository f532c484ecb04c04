//! The first words on a tunnel: hello, and welcome or the reason why not.

use culvert_protocol::hello::{
    FromClient, FromRelay, Hello, Messages, RejectCode, VERSIONS, Welcome, negotiate,
};
use culvert_protocol::tunnel::{CloseCode, CloseReason, Tunnel};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::Span;

use super::control::Control;
use super::leaving::Turned;
use super::registry::{Admission, Refused};
use super::session::Session;
use super::{HANDSHAKE, Peer, Port};
use crate::policy::{Verb, allow};

/// How long a client that was rejected may take to read why and close. Closing first would overtake the reason.
const REJECTED: Duration = Duration::from_secs(1);

/// A control stream on which a version was agreed.
#[derive(Debug)]
pub(super) struct Greeted {
    control: Control,
    version: u16,
}

/// Waits for the control stream and the hello on it.
pub(super) async fn hear(peer: &Peer) -> Result<(Greeted, Hello), Turned> {
    Span::current().record("identity", peer.identity.name.as_str());
    let hearing = async {
        let (read, write) = peer.tunnel.accept().await?.split();
        let mut messages = Messages::new(read);
        let first = messages.next().await?;
        Ok::<_, Turned>((Control::new(messages, write), first))
    };
    let (control, first) = timeout(HANDSHAKE, hearing).await.map_err(|_| Turned::Silent)??;
    let Some(FromClient::Hello(hello)) = first else {
        let message = "the first message is not a hello".to_owned();
        return Err(reject(control, &peer.tunnel, RejectCode::Protocol, message, Turned::NoHello).await);
    };
    let Some(version) = negotiate(&hello.versions) else {
        let theirs = hello.versions.iter().take(16).map(u16::to_string).collect::<Vec<_>>().join(", ");
        let ours = VERSIONS.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "this relay speaks version {ours} of the protocol, the client {theirs}: update the older one"
        );
        let turned = Turned::Version { ours, theirs };
        return Err(reject(control, &peer.tunnel, RejectCode::Version, message, turned).await);
    };
    Ok((Greeted { control, version }, hello))
}

impl Greeted {
    /// Authorises the session, counts it in and welcomes it.
    pub(super) async fn admit(
        mut self,
        session: &Arc<Session>,
        port: &Port,
    ) -> Result<(Control, Admission), Turned> {
        let allowed = allow(&session.identity, Verb::Connect).map_err(Refused::from);
        let admission = match allowed.and_then(|()| port.registry.admit(session)) {
            Ok(admission) => admission,
            Err(refused) => {
                let code = match refused {
                    Refused::NotAllowed(_) => RejectCode::NotAllowed,
                    _ => RejectCode::Busy,
                };
                let message = refused.to_string();
                let turned = Turned::Refused(refused);
                return Err(reject(self.control, &session.tunnel, code, message, turned).await);
            }
        };
        let welcome = Welcome {
            version: self.version,
            relay: port.relay.id.clone(),
            replicas: port.replicas,
            identity: session.identity.name.to_string(),
            cluster: None,
            began: Some(port.registry.began(session)),
        };
        self.control
            .say(&FromRelay::Welcome(welcome))
            .await
            .map_err(|left| Turned::Gone(left.to_string()))?;
        Ok((self.control, admission))
    }
}

async fn reject(
    mut control: Control,
    tunnel: &Tunnel,
    code: RejectCode,
    message: String,
    turned: Turned,
) -> Turned {
    let reason = CloseReason::new(CloseCode::Denied, &message);
    let rejection = FromRelay::Reject { code, message, versions: VERSIONS.to_vec() };
    if control.say(&rejection).await.is_ok() {
        let _ = timeout(REJECTED, tunnel.closed()).await;
    }
    tunnel.close(&reason);
    turned
}
