//! One request's record, printed when it is dropped, however the request ended: once, or not at all where it
//! would only repeat that an app is not there.

use std::time::Instant;

use culvert_protocol::message::RequestHead;
use culvert_protocol::origin::Address;

use crate::screen::{Exchange, Screen, shown_bytes};

pub(super) struct Record<'a> {
    screen: &'a Screen,
    began: Instant,
    told: Exchange,
    /// It would say what was said already.
    known: bool,
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
        Self { screen, began: Instant::now(), told, known: false }
    }

    pub(super) fn goes_to(&mut self, app: &Address) {
        self.told.app = app.to_string();
    }

    /// It ends like the one before, and says nothing of it.
    pub(super) fn is_known(&mut self) {
        self.known = true;
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
        if self.known {
            return;
        }
        self.told.took = self.began.elapsed();
        self.screen.exchange(&self.told);
    }
}
