//! Why there is no answer of the app's, and how the relay is told.

use std::fmt;

use culvert_protocol::answers::NoAnswer;
use culvert_protocol::body::Cut;
use culvert_protocol::frame;
use culvert_protocol::http1::ReadError;
use culvert_protocol::tunnel::SendHalf;
use tokio::time::timeout;

use super::RELAY;
use super::record::Record;

#[derive(Debug)]
pub(super) struct Failure {
    /// What the relay is told; nothing, where something of an answer was said: no other one can be.
    pub(super) told: Option<NoAnswer>,
    /// An answer had begun: it ends without its end. A reset could overtake what was said of it, and then the relay would know
    /// of no answer at all.
    begun: bool,
    /// The app has said that it did not begin with the request, or was not even asked.
    pub(super) unexecuted: bool,
    cause: String,
}

impl Failure {
    pub(super) async fn answer(&self, answers: &mut frame::Writer<SendHalf>, record: &mut Record<'_>) {
        record.failed(&self.cause);
        let Some(why) = self.told else {
            if self.begun {
                let _ = timeout(RELAY, answers.finish()).await;
            }
            return;
        };
        let said = async {
            answers.response(&why.head()).map_err(std::io::Error::other)?;
            answers.end(None).map_err(std::io::Error::other)?;
            answers.finish().await
        };
        // Nobody is left to tell if this fails.
        let _ = timeout(RELAY, said).await;
    }
}

pub(super) fn no_answer(cause: &impl fmt::Display) -> Failure {
    Failure { told: Some(NoAnswer::Closed), begun: false, unexecuted: false, cause: cause.to_string() }
}

/// The app did not take the request's head.
pub(super) fn not_taken(cut: &Cut) -> Failure {
    let told = if matches!(cut, Cut::NoUpgrade) { NoAnswer::NoUpgrade } else { NoAnswer::Closed };
    Failure { told: Some(told), begun: false, unexecuted: true, cause: cut.to_string() }
}

pub(super) fn bad_answer(cause: impl fmt::Display) -> Failure {
    Failure {
        told: Some(NoAnswer::Garbage),
        begun: false,
        unexecuted: false,
        cause: format!("not an answer: {cause}"),
    }
}

/// Instead of an answer's head.
pub(super) fn not_a_head(cut: Cut) -> Failure {
    match cut {
        Cut::Read(ReadError::Refused(refusal)) => bad_answer(refusal),
        Cut::Malformed(malformed) => bad_answer(malformed),
        cut if cut.is_unexecuted() => not_taken(&cut),
        cut => no_answer(&cut),
    }
}

/// In the middle of an answer.
pub(super) fn cut_short(cut: &Cut) -> Failure {
    Failure { told: None, begun: true, unexecuted: false, cause: cut.to_string() }
}

/// The relay takes no answer any more: the caller is gone, or the tunnel.
pub(super) fn cancelled(cut: &Cut) -> Failure {
    Failure { told: None, begun: false, unexecuted: false, cause: format!("cancelled: {cut}") }
}
