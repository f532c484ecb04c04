//! Asking a relay what there is: its services and everybody's intercepts. Claims nothing, and asks once.

use std::time::Duration;

use culvert_protocol::hello::{
    FromClient, FromRelay, HelloError, InstanceId, ListedIntercept, ListedService, Welcome,
};
use culvert_protocol::tunnel::{CloseCode, CloseReason};
use tokio::time::timeout;

use crate::address::RelayAddress;
use crate::dial::{DialError, Dialler, Line};
use crate::exit::Exit;
use crate::session::{Control, GreetError, Over, SessionError};

/// How long the whole answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// More of each than one relay can have; what comes on top is not kept.
const ENTRIES: usize = 20_000;

/// What a relay has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Who the relay takes us for.
    pub identity: String,
    pub services: Vec<ListedService>,
    pub intercepts: Vec<ListedIntercept>,
}

/// Texts in it are the relay's and other developers'.
pub async fn list(dialler: &Dialler) -> Result<Listing, ListError> {
    let relay = dialler.relay();
    loop {
        let line = match dialler.dial().await {
            Ok(line) => line,
            Err(error) if error.verdict().is_some() => {
                return Err(ListError::Session(SessionError::Dial(error)));
            }
            Err(error) => return Err(ListError::Dial(error)),
        };
        let greeted = Control::greet(&line, InstanceId::new(rand::random()), None, None).await;
        // At most once: it does not begin with QUIC again.
        if matches!(greeted, Err(GreetError::Silent { otherwise: true })) {
            continue;
        }
        let listing = ask(greeted, &line, relay).await;
        line.close(&CloseReason::new(CloseCode::Shutdown, "answered")).await;
        return listing;
    }
}

async fn ask(
    greeted: Result<(Control, Welcome), GreetError>,
    line: &Line,
    relay: &RelayAddress,
) -> Result<Listing, ListError> {
    let (mut control, welcome) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => {
            return Err(match Over::of_greeting(error, line, relay).await {
                Over::Never(error) => ListError::Session(error),
                Over::Again(why) | Over::Away(why) | Over::Forgotten(why) => ListError::NotNow(why),
                Over::Stopped | Over::Moved | Over::Drained { .. } => {
                    ListError::NotNow("the relay is going away".to_owned())
                }
            });
        }
    };
    let mut listing = Listing { identity: welcome.identity, ..Listing::default() };
    match timeout(ANSWER, gather(&mut control, &mut listing)).await {
        Ok(Ok(())) => Ok(listing),
        Ok(Err(cause)) => Err(ListError::Asking { relay: relay.clone(), cause }),
        Err(_) => Err(ListError::Silent { relay: relay.clone() }),
    }
}

async fn gather(control: &mut Control, listing: &mut Listing) -> Result<(), HelloError> {
    control.say(&FromClient::List).await?;
    loop {
        match control.hear().await? {
            FromRelay::Listing { services, intercepts, more } => {
                listing.services.extend(services);
                listing.services.truncate(ENTRIES);
                listing.intercepts.extend(intercepts);
                listing.intercepts.truncate(ENTRIES);
                if !more {
                    return Ok(());
                }
            }
            FromRelay::Ping { n } => control.say(&FromClient::Pong { n }).await?,
            _ => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    #[error(transparent)]
    Dial(DialError),
    #[error(transparent)]
    Session(SessionError),
    #[error("{0}")]
    NotNow(String),
    #[error("asking the relay {relay} what it has: {cause}")]
    Asking { relay: RelayAddress, cause: HelloError },
    #[error("asking the relay {relay} what it has: no answer within {} s", ANSWER.as_secs())]
    Silent { relay: RelayAddress },
}

impl ListError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Session(error) => error.exit(),
            Self::Dial(_) | Self::NotNow(_) | Self::Asking { .. } | Self::Silent { .. } => Exit::Unreachable,
        }
    }

    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Session(error) => error.advice(),
            Self::Dial(error) => Some(error.advice()),
            Self::NotNow(_) | Self::Asking { .. } | Self::Silent { .. } => {
                Some("again in a moment".to_owned())
            }
        }
    }
}
