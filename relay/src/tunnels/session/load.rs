//! What a session carries at the moment: how many exchanges, and which of them are bulk. For placing the next one, nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use culvert_protocol::tunnel::BULK;

use super::Session;

#[derive(Debug, Default)]
pub(crate) struct Load {
    open: AtomicUsize,
    bulk: AtomicUsize,
}

impl Load {
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(crate) fn is_bulk(&self) -> bool {
        self.bulk.load(Relaxed) > 0
    }
}

/// One exchange on a session, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Carried {
    session: Arc<Session>,
    /// Bytes, both ways.
    moved: AtomicU64,
}

impl Carried {
    pub(crate) fn by(session: &Arc<Session>) -> Self {
        session.load.open.fetch_add(1, Relaxed);
        Self { session: Arc::clone(session), moved: AtomicU64::new(0) }
    }

    /// Some bytes went to the developer.
    pub(crate) fn sent(&self, bytes: usize) {
        self.moved(bytes);
    }

    /// Some bytes came from the developer: a word on the tunnel.
    pub(crate) fn received(&self, bytes: usize) {
        self.session.heard();
        self.moved(bytes);
    }

    fn moved(&self, bytes: usize) {
        self.session.health.moved(bytes as u64);
        let before = self.moved.fetch_add(bytes as u64, Relaxed);
        if before <= BULK && before + bytes as u64 > BULK {
            self.session.load.bulk.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.session.load.open.fetch_sub(1, Relaxed);
        if *self.moved.get_mut() > BULK {
            self.session.load.bulk.fetch_sub(1, Relaxed);
        }
    }
}
