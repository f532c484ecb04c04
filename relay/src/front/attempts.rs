//! What one request has tried of the developer who claims it: on which tunnels, how often, and since when its caller waits for that.
//! Pure: what is left to try is the claim's to know, and what comes of it the path's.

use tokio::time::Instant;

use super::forward::Why;
use culvert_protocol::frame::Refusal;

/// How often developers are asked for one request. More means that their tunnels come and go faster than it could.
const MOST: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Attempts {
    asked: u32,
    /// What did not take it, by fence.
    tried: Vec<u64>,
    /// The app itself is not to be had, whichever tunnel leads to it.
    refused: bool,
    silent: Option<Instant>,
    full: Option<Instant>,
}

/// Since when a caller waits, over however many tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// For the first word of a developer.
    pub(crate) word: Instant,
    /// For a place on a tunnel, if others had none.
    pub(crate) place: Option<Instant>,
}

impl Attempts {
    /// Whether it is worth while to ask once more.
    pub(super) fn go_on(&self) -> bool {
        !self.refused && self.asked < MOST
    }

    /// The tunnels that are not to be asked again.
    pub(super) fn tried(&self) -> &[u64] {
        &self.tried
    }

    /// Another one is asked now.
    pub(super) fn ask(&mut self, now: Instant) -> Waiting {
        self.asked += 1;
        Waiting { word: self.silent.unwrap_or(now), place: self.full }
    }

    /// The tunnel of this fence, asked then, did not take it.
    pub(super) fn missed(&mut self, fence: u64, why: Why, asked: Instant) {
        match why {
            // A tunnel in doubt is passed over as long as it is.
            Why::Silent => _ = self.silent.get_or_insert(asked),
            Why::Cut | Why::Refused(Refusal::Draining) => self.tried.push(fence),
            // However many are full, nobody waits longer than for one.
            Why::Full => {
                self.full.get_or_insert(asked);
                self.tried.push(fence);
            }
            // Its other tunnels lead to the same app.
            Why::Late | Why::Refused(_) => self.refused = true,
        }
    }

    /// Nobody can be reached: since when the caller waits in vain.
    pub(super) fn in_vain(&mut self, now: Instant) -> Instant {
        *self.silent.get_or_insert(now)
    }

    /// A developer can be reached again, perhaps another one, and all of their tunnels are as good as new.
    pub(super) fn begin_anew(&mut self) {
        self.tried.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_did_not_take_a_request_is_not_asked_for_it_again() {
        let now = Instant::now();
        for (why, tried, goes_on) in [
            (Why::Cut, &[7][..], true),
            (Why::Full, &[7], true),
            (Why::Refused(Refusal::Draining), &[7], true),
            (Why::Silent, &[], true),
            (Why::Late, &[], false),
            (Why::Refused(Refusal::AppUnreachable), &[], false),
        ] {
            let mut attempts = Attempts::default();
            attempts.ask(now);
            attempts.missed(7, why, now);
            assert_eq!((attempts.tried(), attempts.go_on()), (tried, goes_on), "{why:?}");
            attempts.begin_anew();
            assert_eq!((attempts.tried(), attempts.go_on()), (&[][..], goes_on), "{why:?}");
        }
    }

    #[test]
    fn a_caller_waits_no_longer_however_many_tunnels_are_silent_or_full() {
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let mut attempts = Attempts::default();
        assert_eq!(attempts.ask(begun), Waiting { word: begun, place: None });
        attempts.missed(1, Why::Full, begun);
        // The wait for a place is none for a word.
        assert_eq!(attempts.ask(later(1)), Waiting { word: later(1), place: Some(begun) });
        attempts.missed(2, Why::Silent, later(1));
        attempts.missed(3, Why::Full, later(2));
        attempts.missed(4, Why::Silent, later(3));
        assert_eq!(attempts.ask(later(4)), Waiting { word: later(1), place: Some(begun) });
        assert_eq!(attempts.in_vain(later(5)), later(1));
        attempts.begin_anew();
        assert_eq!(attempts.ask(later(6)), Waiting { word: later(1), place: Some(begun) });
    }

    #[test]
    fn tunnels_that_come_and_go_are_not_tried_for_ever() {
        let mut attempts = Attempts::default();
        for fence in 0..u64::from(MOST) {
            assert!(attempts.go_on());
            attempts.ask(Instant::now());
            attempts.missed(fence, Why::Cut, Instant::now());
            attempts.begin_anew();
        }
        assert!(!attempts.go_on());
    }
}
