//! Whether the relay answers over QUIC, which the other rungs want to know before they are begun. Dials nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Of one race.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    quic: watch::Sender<Quic>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quic {
    Silent,
    /// Nothing came back yet, and something will: the relay has just spoken to us.
    Expected,
    /// Something came back, and the handshake is under way.
    Answering,
    /// It has failed at one address, or is done.
    Over,
}

impl Answers {
    /// Others stand back for no longer than `patience`, once it has answered.
    pub(crate) fn awaited(patience: Duration) -> Self {
        Self { quic: watch::Sender::new(Quic::Silent), patience }
    }

    /// It is about to: another tunnel was ended by it a moment ago. Others stand back for `patience`, and as long again if it has
    /// answered by then.
    pub(super) fn expected(patience: Duration) -> Self {
        Self { quic: watch::Sender::new(Quic::Expected), patience }
    }

    pub(super) fn heard(&self) {
        self.quic.send_if_modified(|quic| {
            matches!(quic, Quic::Silent | Quic::Expected) && replace(quic, Quic::Answering)
        });
    }

    pub(super) fn over(&self) {
        self.quic.send_if_modified(|quic| replace(quic, Quic::Over));
    }

    /// The relay has answered, and the handshake is not over.
    pub(super) fn is_answering(&self) -> bool {
        *self.quic.borrow() == Quic::Answering
    }

    /// Returns at once where QUIC is silent or has failed.
    pub(super) async fn stand_back(&self) {
        let expected = *self.quic.borrow() == Quic::Expected;
        self.wait().await;
        if expected && self.is_answering() {
            self.wait().await;
        }
    }

    async fn wait(&self) {
        let mut quic = self.quic.subscribe();
        let lasts = |quic: &Quic| matches!(quic, Quic::Expected | Quic::Answering);
        // Past that, or when nobody is left to tell, it is tried as well.
        let _ = timeout(self.patience, quic.wait_for(|quic| !lasts(quic))).await;
    }
}

fn replace(quic: &mut Quic, by: Quic) -> bool {
    *quic = by;
    true
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    async fn stood_back(answers: &Answers) -> Duration {
        let begun = Instant::now();
        answers.stand_back().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_relay_is_not_waited_for() {
        assert_eq!(stood_back(&Answers::awaited(PATIENCE)).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_answers_is_waited_for_and_not_for_ever() {
        let answers = Answers::awaited(PATIENCE);
        answers.heard();
        assert_eq!(stood_back(&answers).await, PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_expected_to_answer_and_does_is_waited_for_twice_as_long() {
        let answers = Answers::expected(PATIENCE);
        assert_eq!(stood_back(&answers).await, PATIENCE);
        let hearing = async {
            sleep(PATIENCE / 2).await;
            answers.heard();
        };
        let (stood_back, ()) = tokio::join!(stood_back(&answers), hearing);
        assert_eq!(stood_back, 2 * PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_fails_after_an_answer_holds_nobody_up() {
        let answers = Answers::awaited(PATIENCE);
        answers.heard();
        let failing = async {
            sleep(Duration::from_millis(100)).await;
            answers.over();
            // What comes late changes nothing.
            answers.heard();
        };
        let (stood_back, ()) = tokio::join!(stood_back(&answers), failing);
        assert_eq!(stood_back, Duration::from_millis(100));
        assert_eq!(self::stood_back(&answers).await, Duration::ZERO);
    }
}
