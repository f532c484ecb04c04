//! One request's record, printed exactly once, however the request ended: when it is dropped.

use std::time::Instant;

use culvert_protocol::message::RequestHead;
use culvert_protocol::origin::Address;

use crate::screen::{Exchange, Screen, shown_bytes};

pub(super) struct Record<'a> {
    screen: &'a Screen,
    began: Instant,
    told: Exchange,
}

impl<'a> Record<'a> {
    pub(super) fn begin(screen: &'a Screen, head: &RequestHead) -> Self {
        let told = Exchange {
            method: shown_bytes(&head.method),
            target: shown_bytes(head.path()),
            status: None,
            took: std::time::Duration::ZERO,
            app: String::new(),
            // What stays if the task is cancelled before anything else is known.
            failure: Some("cancelled".to_owned()),
        };
        Self { screen, began: Instant::now(), told }
    }

    pub(super) fn goes_to(&mut self, app: &Address) {
        self.told.app = app.to_string();
    }

    pub(super) fn answered(&mut self, status: u16) {
        self.told.status = Some(status);
        self.told.failure = None;
    }

    pub(super) fn failed(&mut self, why: &str) {
        self.told.failure = Some(why.to_owned());
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.told.took = self.began.elapsed();
        self.screen.exchange(&self.told);
    }
}
