//! One request's record, written exactly once, however the request ended: when it is dropped.

use std::time::Instant;

use crate::failure::Failure;
use crate::metrics::{Exchanged, Reached};
use crate::service::Service;

#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    service: &'a Service,
    began: Instant,
    told: Exchanged,
}

impl<'a> Exchange<'a> {
    pub(crate) fn begin(service: &'a Service) -> Self {
        let told = Exchanged {
            destination: Reached::Relay,
            // What stays if the task is cancelled before anything is answered.
            status: Failure::CallerGone.status(),
            failure: None,
            took: std::time::Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
        };
        Self { service, began: Instant::now(), told }
    }

    pub(crate) fn reaches(&mut self, destination: Reached) {
        self.told.destination = destination;
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.told.status = status;
    }

    pub(crate) fn moved(&mut self, request: u64, response: u64) {
        self.told.request_bytes += request;
        self.told.response_bytes += response;
    }

    pub(crate) fn failed(&mut self, failure: &Failure, answered: bool) {
        self.told.failure = Some(failure.label());
        if matches!(failure, Failure::Refused(_) | Failure::HeadTimeout) {
            self.service.metrics.rejected(failure.label());
        }
        if answered {
            self.told.status = failure.status();
        }
        tracing::debug!(service = %self.service.name, failure = failure.label(), side = %failure.side(), "{failure}");
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.told.took = self.began.elapsed();
        self.service.metrics.record(&self.told);
    }
}
