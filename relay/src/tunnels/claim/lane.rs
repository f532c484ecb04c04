//! On which of a claim's tunnels the next request goes. Pure.

use culvert_protocol::tunnel::Transport;

/// How a tunnel stands. The least one is the best: in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// A bulk transfer is under way, behind which small exchanges wait.
    pub(super) bulk: bool,
    pub(super) rung: u8,
    /// Exchanges under way.
    pub(super) open: usize,
}

/// The place of the best one; a tunnel that is out of the question is none.
pub(super) fn best(standings: impl IntoIterator<Item = Option<Standing>>) -> Option<usize> {
    let fit = standings.into_iter().enumerate().filter_map(|(at, standing)| Some((standing?, at)));
    fit.min().map(|(_, at)| at)
}

/// How far down the ladder a transport is.
pub(super) fn rung(transport: Transport) -> u8 {
    if transport == Transport::Quic {
        0
    } else if transport == Transport::Tls {
        1
    } else {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(bulk: bool, rung: u8, open: usize) -> Option<Standing> {
        Some(Standing { bulk, rung, open })
    }

    #[test]
    fn a_request_goes_where_it_waits_least() {
        for (lanes, wanted) in [
            (vec![], None),
            (vec![None, None], None),
            // In doubt: not even if it is the better rung.
            (vec![None, standing(true, 2, 90)], Some(1)),
            // No bulk before the rung, the rung before what is open.
            (vec![standing(true, 0, 1), standing(false, 2, 9)], Some(1)),
            (vec![standing(false, 1, 0), standing(false, 0, 9)], Some(1)),
            (vec![standing(false, 1, 4), standing(false, 1, 3), standing(false, 1, 5)], Some(1)),
            (vec![standing(true, 1, 4), standing(true, 0, 3)], Some(1)),
            // The older one among equals.
            (vec![standing(false, 0, 3), standing(false, 0, 3)], Some(0)),
        ] {
            assert_eq!(best(lanes.clone()), wanted, "{lanes:?}");
        }
    }

    #[test]
    fn the_ladder_is_climbed_from_tls_to_quic() {
        assert!(rung(Transport::Quic) < rung(Transport::Tls));
    }
}
