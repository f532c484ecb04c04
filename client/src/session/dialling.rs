//! One dial of a session, up to the welcome. Whose tunnel that becomes, if any, is the session's to say.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_protocol::hello::Welcome;
use culvert_protocol::tunnel::Transport;

use super::lane::LaneId;
use super::links::{Aim, steps};
use super::shared::Shared;
use super::{Control, Over};
use crate::dial::{Dialler, Line, Missed, Why};

/// A tunnel on which the relay has said who it is.
pub(super) struct Greeted {
    pub(super) id: LaneId,
    pub(super) line: Line,
    pub(super) control: Control,
    pub(super) welcome: Welcome,
    /// The rungs that do not carry it, and why.
    pub(super) missed: Vec<(Transport, String)>,
    /// In words.
    pub(super) how: String,
}

/// `taken`: where replicas are that need not be dialled.
pub(super) async fn dial(shared: Arc<Shared>, aim: Aim, taken: Vec<IpAddr>) -> (Aim, Result<Greeted, Over>) {
    let Some(place) = shared.places.get(aim.place()) else {
        return (aim, Err(Over::Again("there is no such address".to_owned())));
    };
    let greeted = match &aim {
        Aim::Replica { .. } => attempt(&shared, &place.dialler, &taken).await,
        Aim::Climb { above, .. } => {
            // The best one first; that it does not get through says nothing of the next.
            let mut outcome = Err(Over::Again("there is no better one".to_owned()));
            for (rung, dialler) in Transport::ALL.into_iter().zip(&place.pinned) {
                if steps(rung) < steps(*above) && outcome.is_err() {
                    outcome = attempt(&shared, dialler, &[]).await;
                }
            }
            outcome
        }
        Aim::Grow { rung, .. } => match place.pinned.get(steps(*rung)) {
            Some(dialler) => attempt(&shared, dialler, &[]).await,
            None => Err(Over::Again("this rung cannot be dialled".to_owned())),
        },
    };
    (aim, greeted)
}

/// Bounded by what a dial and a greeting may take.
async fn attempt(shared: &Shared, dialler: &Dialler, taken: &[IpAddr]) -> Result<Greeted, Over> {
    let mut line = dialler.dial_elsewhere(taken).await.map_err(Over::of_dial)?;
    let missed = std::mem::take(&mut line.missed);
    let how = how(line.tunnel.transport(), &missed);
    let missed = missed.iter().map(|missed| (missed.rung, missed.said())).collect();
    let id = shared.number();
    match Control::greet(&line, shared.instance, Some(id), shared.began()).await {
        Ok((control, welcome)) => {
            shared.began_at(welcome.began.clone());
            Ok(Greeted { id, line, control, welcome, missed, how })
        }
        Err(error) => {
            let over = Over::of_greeting(error, &line, dialler.relay()).await;
            line.close(&over.as_reason()).await;
            Err(over)
        }
    }
}

/// The rung in use, and, where it is not the best one, what was wrong with that.
fn how(rung: Transport, missed: &[Missed]) -> String {
    let tried = |missed: &&Missed| steps(missed.rung) < steps(rung) && !matches!(missed.why, Why::NotWanted);
    let missed: Vec<_> = missed.iter().filter(tried).map(ToString::to_string).collect();
    if missed.is_empty() { rung.to_string() } else { format!("{rung} ({})", missed.join("; ")) }
}

impl Missed {
    /// Without the rung.
    fn said(&self) -> String {
        match &self.place {
            Some(place) => format!("to {place}: {}", self.why),
            None => self.why.to_string(),
        }
    }
}

impl Aim {
    /// Which of the relay's addresses is dialled.
    pub(super) fn place(&self) -> usize {
        match self {
            Self::Replica { place } | Self::Climb { place, .. } | Self::Grow { place, .. } => *place,
        }
    }

    pub(super) fn is_replica(&self) -> bool {
        matches!(self, Self::Replica { .. })
    }

    /// Which rung was the best that was tried.
    pub(super) fn rung(&self) -> Option<Transport> {
        match self {
            Self::Replica { .. } => None,
            Self::Climb { .. } => Some(Transport::Quic),
            Self::Grow { rung, .. } => Some(*rung),
        }
    }
}
