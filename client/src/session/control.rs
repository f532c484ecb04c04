//! The control stream, from the client's end: greeted once, then messages both ways. Decides nothing about them.

use std::fmt;
use std::io;
use std::time::Duration;

use culvert_protocol::hello::{
    FromClient, FromRelay, Hello, HelloError, InstanceId, Messages, RejectCode, Stamp, VERSIONS, Welcome,
    write_message,
};
use culvert_protocol::tunnel::{Closed, RecvHalf, SendHalf};
use tokio::time::timeout;

use crate::dial::Line;

/// How long the relay may take to welcome us.
const GREETING: Duration = Duration::from_secs(5);

/// How long a message may wait for the relay to read the ones before it.
const SAY: Duration = Duration::from_secs(5);

pub(crate) struct Control {
    messages: Messages<RecvHalf>,
    send: SendHalf,
}

impl Control {
    /// Opens the control stream and says who dials. The relay's certificate was verified by then, ours was not.
    pub(crate) async fn greet(
        line: &Line,
        instance: InstanceId,
        tunnel: Option<u64>,
        began: Option<Stamp>,
    ) -> Result<(Self, Welcome), GreetError> {
        let greeting = async {
            let (recv, send) = line.tunnel.open().await?.split();
            let mut control = Self { messages: Messages::new(recv), send };
            control.say(&FromClient::Hello(hello(instance, tunnel, began))).await?;
            loop {
                match control.hear().await? {
                    FromRelay::Welcome(welcome) => return Ok((control, welcome)),
                    FromRelay::Reject { code, message, versions } => {
                        return Err(GreetError::Rejected { code, message, versions });
                    }
                    // A newer relay may say more than we know, and nothing else comes before the welcome.
                    _ => {}
                }
            }
        };
        match timeout(GREETING, greeting).await {
            Ok(greeted) => {
                if greeted.is_ok() {
                    line.heard();
                }
                greeted
            }
            Err(_) => Err(GreetError::Silent { otherwise: line.unheard() }),
        }
    }

    /// Waits at most [`SAY`]. An error means that half of the message may have been said: no other can follow.
    pub(crate) async fn say(&mut self, message: &FromClient) -> Result<(), HelloError> {
        match timeout(SAY, write_message(&mut self.send, message)).await {
            Ok(said) => said,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the relay does not read it").into()),
        }
    }

    /// The next message. Dropping the future loses nothing.
    pub(crate) async fn hear(&mut self) -> Result<FromRelay, HelloError> {
        match self.messages.next().await? {
            Some(message) => Ok(message),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the relay ended it").into()),
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

fn hello(instance: InstanceId, tunnel: Option<u64>, began: Option<Stamp>) -> Hello {
    Hello {
        versions: VERSIONS.to_vec(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: gethostname::gethostname().to_string_lossy().into_owned(),
        user: None,
        process: std::process::id(),
        instance,
        tunnel,
        began,
    }
}

/// Why a tunnel did not become a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("the relay did not answer within {} s", GREETING.as_secs())]
    Silent {
        /// The next dial begins otherwise.
        otherwise: bool,
    },
    #[error("the relay turned us away: {message}")]
    Rejected { code: RejectCode, message: String, versions: Vec<u16> },
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Stream(#[from] HelloError),
}
