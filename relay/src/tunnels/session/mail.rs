//! What other tasks have to say to a client, until the session's own task says it. Bounded, and no channel of tokio's: that one
//! keeps room for 32 messages per tunnel, and hardly a tunnel ever gets one.

use std::collections::VecDeque;

use culvert_protocol::hello::FromRelay;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// At once: one message for each claim that a session can hold.
const MOST: usize = crate::tunnels::registry::CLAIMS_PER_IDENTITY;

#[derive(Debug, Default)]
pub(super) struct Mail {
    waiting: Mutex<VecDeque<FromRelay>>,
    came: Notify,
}

impl Mail {
    /// Whether there was room.
    pub(super) fn post(&self, message: FromRelay) -> bool {
        let mut waiting = self.waiting.lock();
        let room = waiting.len() < MOST;
        if room {
            waiting.push_back(message);
            self.came.notify_one();
        }
        room
    }

    /// The next message. One task waits for it, and loses none by giving up.
    pub(super) async fn next(&self) -> FromRelay {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.came.notified().await;
        }
    }

    pub(super) fn take(&self) -> Option<FromRelay> {
        let mut waiting = self.waiting.lock();
        let message = waiting.pop_front();
        if waiting.is_empty() {
            *waiting = VecDeque::new();
        }
        message
    }
}
