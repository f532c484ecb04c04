//! Those for whom there is no seat at the moment: a short line, so that thousands who lost their relay at once are taken in one
//! after the other as fast as it can, and need not all try again. Holds connections, bounded, and reads nothing from them.

use std::collections::VecDeque;
use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::seats::whose;
use super::{Room, Seat, Seats};

#[derive(Debug)]
pub(crate) struct Line<A> {
    bounds: Bounds,
    waiting: VecDeque<(Instant, IpAddr, A)>,
}

/// Of the line on one transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A few seconds' work; for one address no more than what is left of it. Whoever comes on top is turned away, and tries again
    /// by itself.
    pub(crate) length: usize,
    /// Sooner than a client gives an attempt up: a seat is not to be given to somebody who has left.
    pub(crate) patience: Duration,
}

impl<A> Line<A> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: VecDeque::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives the arrival back when there is no room for it. Its address is proven.
    pub(crate) fn join(&mut self, address: IpAddr, arrival: A) -> Result<(), A> {
        self.leave();
        let address = whose(address);
        let same = self.waiting.iter().filter(|(_, other, _)| *other == address).count();
        let left = self.bounds.length.saturating_sub(self.waiting.len());
        if left == 0 || same >= left {
            return Err(arrival);
        }
        self.waiting.push_back((Instant::now(), address, arrival));
        Ok(())
    }

    /// The first for whom there is a seat now.
    pub(crate) fn next(&mut self, seats: &Seats) -> Option<(Seat, A)> {
        self.leave();
        // The address that was just found to have its share has it for all who wait there.
        let mut full = None;
        for at in 0..self.waiting.len() {
            let (_, address, _) = self.waiting.get(at)?;
            if full == Some(*address) {
                continue;
            }
            match seats.room(*address, true) {
                Room::Seat(seat) => {
                    let (_, _, arrival) = self.waiting.remove(at)?;
                    return Some((seat, arrival));
                }
                Room::Unproven | Room::None => full = Some(*address),
            }
        }
        None
    }

    /// Resolves when the first has waited for too long; never when there is nobody.
    pub(crate) async fn tired(&self) {
        match self.waiting.front() {
            Some((since, ..)) => sleep_until(*since + self.bounds.patience).await,
            None => pending().await,
        }
    }

    /// Those who have waited for too long are turned away.
    pub(crate) fn leave(&mut self) {
        while self.waiting.front().is_some_and(|(since, ..)| since.elapsed() >= self.bounds.patience) {
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { length: 1_000, patience: Duration::from_secs(60) };

    #[test]
    fn whoever_finds_no_seat_gets_the_next_one_in_turn() {
        let (seats, mut line) = (Seats::default(), Line::new(BOUNDS));
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut taken = Vec::new();
        while let Room::Seat(seat) = seats.room(one, true) {
            taken.push(seat);
        }
        for (address, name) in [(one, "first"), (one, "second"), (other, "another's")] {
            line.join(address, name).unwrap();
        }
        let (_seat, name) = line.next(&seats).unwrap();
        assert_eq!(name, "another's", "an address that has its share holds nobody else up");
        assert!(line.next(&seats).is_none());
        taken.pop();
        let (_seat, name) = line.next(&seats).unwrap();
        assert_eq!(name, "first");
        assert!(line.next(&seats).is_none() && !line.is_empty());
    }

    #[test]
    fn one_address_leaves_half_of_the_line_to_others() {
        let mut line = Line::new(BOUNDS);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let joined = (0..BOUNDS.length).filter(|_| line.join(one, ()).is_ok()).count();
        assert_eq!(joined, BOUNDS.length / 2);
        assert!(line.join(other, ()).is_ok());
    }
}
