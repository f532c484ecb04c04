//! Which frame may follow which, on one half of a stream. One automaton for both halves: what only a client may say
//! is known by whoever reads.

use super::{Kind, WireError};

/// Where a half of a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Fresh,
    /// ACCEPTED or INFORM was said; a REFUSED after it would be a lie.
    Begun,
    /// HEAD or UPGRADED was said, and nothing after it: the only place of a CONFIRMED.
    Headed,
    Body,
    Over,
}

impl Order {
    pub(super) fn after(self, kind: Kind) -> Result<Self, WireError> {
        match (self, kind) {
            (Self::Fresh, Kind::Accepted) | (Self::Fresh | Self::Begun, Kind::Inform) => Ok(Self::Begun),
            (Self::Fresh, Kind::Refused) | (Self::Headed | Self::Body, Kind::End) => Ok(Self::Over),
            (Self::Fresh | Self::Begun, Kind::Head | Kind::Upgraded) => Ok(Self::Headed),
            (Self::Headed, Kind::Confirmed) | (Self::Headed | Self::Body, Kind::Data) => Ok(Self::Body),
            _ => Err(WireError::Order(kind)),
        }
    }
}
