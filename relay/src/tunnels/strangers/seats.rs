//! Places for handshakes on one transport: so many at once, and for one address no more than half of what is left, so that one
//! silent stranger keeps nobody out. Holds a count for each address that sits, and so never more of them than there are
//! seats.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Handshakes at once. Each may hold a ClientHello of 64 KiB and a core for a millisecond or two.
pub(super) const AT_ONCE: usize = 200;
/// From here on a QUIC client has to show first that it is where it says: a flood of made-up addresses stops here.
pub(super) const PROVE_FROM: usize = 100;
/// Handshakes at once from one address, however few seats are left. While there are many it may have half as many as are free: a
/// whole office behind one address that lost its relay at once takes a third of them, and whoever comes then finds the rest.
pub(super) const OF_ONE_ADDRESS: usize = 20;
/// The same for an address that may be made up: the other half of its seats is left to whoever really has it.
pub(super) const UNPROVEN_OF_ONE_ADDRESS: usize = 10;

/// The seats of one transport.
#[derive(Debug)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    taken: Taken,
    freed: Arc<Notify>,
    /// What one proven address may have of them in any case.
    of_one: usize,
}

type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A place that nobody has yet.
#[derive(Debug)]
pub(crate) struct Place {
    permit: OwnedSemaphorePermit,
    taken: Taken,
    freed: Arc<Notify>,
    of_one: usize,
}

/// A handshake's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    /// None: it is being given back.
    permit: Option<OwnedSemaphorePermit>,
    taken: Taken,
    freed: Arc<Notify>,
    address: IpAddr,
}

/// What a QUIC handshake may do.
#[derive(Debug)]
pub(crate) enum Room {
    Seat(Seat),
    /// It has to prove its address first.
    Unproven,
    None,
}

impl Default for Seats {
    fn default() -> Self {
        Self::of_one(OF_ONE_ADDRESS)
    }
}

impl Seats {
    /// With another share for each address.
    pub(super) fn of_one(of_one: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
            taken: Taken::default(),
            freed: Arc::default(),
            of_one,
        }
    }

    /// Waits for a place. Whoever comes meanwhile waits in the kernel's queue. `None` never happens: nobody closes it.
    pub(crate) async fn place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(self.held(permit))
    }

    /// Resolves when a seat has been given back since it was last asked.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn held(&self, permit: OwnedSemaphorePermit) -> Place {
        let (taken, freed) = (Arc::clone(&self.taken), Arc::clone(&self.freed));
        Place { permit, taken, freed, of_one: self.of_one }
    }

    /// A seat without waiting, for someone who may not be where it says.
    pub(crate) fn room(&self, address: IpAddr, proven: bool) -> Room {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else { return Room::None };
        let crowded = self.free.available_permits() < AT_ONCE - PROVE_FROM;
        let place = self.held(permit);
        match (proven, crowded) {
            (true, _) => place.of(address).map_or(Room::None, Room::Seat),
            (false, true) => Room::Unproven,
            (false, false) => {
                place.at_most(UNPROVEN_OF_ONE_ADDRESS, address).map_or(Room::Unproven, Room::Seat)
            }
        }
    }
}

impl Place {
    /// `None` where the address has its share already.
    pub(crate) fn of(self, address: IpAddr) -> Option<Seat> {
        let free = self.permit.semaphore().available_permits();
        let share = self.of_one.max(free / 2);
        self.at_most(share, address)
    }

    fn at_most(self, most: usize, address: IpAddr) -> Option<Seat> {
        let Self { permit, taken, freed, of_one: _ } = self;
        let address = whose(address);
        {
            let mut taken = taken.lock();
            let count = taken.entry(address).or_default();
            // Never the first of its address, so that no count of 0 is left behind.
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        Some(Seat { permit: Some(permit), taken, freed, address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut taken = self.taken.lock();
            if let Some(count) = taken.get_mut(&self.address) {
                *count -= 1;
                if *count == 0 {
                    taken.remove(&self.address);
                }
            }
        }
        // Before anybody is told of it.
        self.permit = None;
        self.freed.notify_one();
    }
}

/// Who is given an IPv6 address is mostly given all 2^64 beside it.
pub(super) fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    #[tokio::test]
    async fn one_address_leaves_twice_as_many_seats_as_it_has() {
        let seats = Seats::default();
        let mut taken = all_for(&seats, address(1)).await;
        assert_eq!(taken.len(), AT_ONCE / 3);
        let other = seats.place().await.unwrap().of(address(2)).unwrap();
        taken.pop();
        taken.push(seats.place().await.unwrap().of(address(1)).unwrap());
        drop((taken, other));
        assert_eq!(seats.taken.lock().len(), 0);
        assert_eq!(seats.free.available_permits(), AT_ONCE);
    }

    #[tokio::test]
    async fn however_many_are_taken_an_address_has_its_share_while_there_is_any() {
        let seats = Seats::default();
        let mut taken = Vec::new();
        let mut shares = Vec::new();
        for number in 0.. {
            let share = all_for(&seats, address(number)).await;
            if share.is_empty() {
                break;
            }
            shares.push(share.len());
            taken.extend(share);
        }
        assert_eq!(shares, [66, 44, 30, OF_ONE_ADDRESS, OF_ONE_ADDRESS, OF_ONE_ADDRESS]);
    }

    async fn all_for(seats: &Seats, address: IpAddr) -> Vec<Seat> {
        let mut taken = Vec::new();
        while seats.free.available_permits() > 0
            && let Some(seat) = seats.place().await.and_then(|place| place.of(address))
        {
            taken.push(seat);
        }
        taken
    }

    #[tokio::test]
    async fn a_network_of_ipv6_addresses_is_one() {
        let seats = Seats::default();
        let mut taken = Vec::new();
        for number in 0..AT_ONCE / 3 {
            let address: IpAddr = format!("2001:db8::{number:x}").parse().unwrap();
            taken.push(seats.place().await.unwrap().of(address).unwrap());
        }
        assert!(seats.place().await.unwrap().of("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(seats.place().await.unwrap().of("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn quic_has_to_prove_addresses_before_the_seats_run_out() {
        let seats = Seats::default();
        let mut taken = Vec::new();
        let unproven = (0..1_000).filter(|number| match seats.room(address(*number), false) {
            Room::Seat(seat) => {
                taken.push(seat);
                false
            }
            Room::Unproven => true,
            Room::None => panic!("a made-up address took the last seat"),
        });
        assert_eq!(unproven.count(), 1_000 - PROVE_FROM);
        for number in 0..AT_ONCE - PROVE_FROM {
            let Room::Seat(seat) = seats.room(address(number), true) else {
                panic!("no seat for a proven one")
            };
            taken.push(seat);
        }
        assert!(matches!(seats.room(address(0), true), Room::None));
        taken.clear();
        assert!(matches!(seats.room(address(0), false), Room::Seat(_)));
    }

    #[test]
    fn made_up_packets_do_not_use_up_an_address_that_is_somebodys() {
        let seats = Seats::default();
        let mut taken = Vec::new();
        while let Room::Seat(seat) = seats.room(address(1), false) {
            taken.push(seat);
        }
        assert_eq!(taken.len(), UNPROVEN_OF_ONE_ADDRESS);
        while let Room::Seat(seat) = seats.room(address(1), true) {
            taken.push(seat);
        }
        assert_eq!(taken.len(), AT_ONCE / 3);
    }
}
