//! The beginning of a body, kept where all of it may have to be sent once more: to another destination, or on another
//! connection. Holds no more than [`KEPT`] and the piece that reaches it, and decides nothing about who is asked again.

use super::{Cut, Piece, Sink};
use crate::message::Fields;

/// How much of a body is kept, and so can be sent again.
pub const KEPT: usize = 64 * 1024;

/// What has come of a body.
#[derive(Debug, Default)]
pub struct Kept {
    data: Vec<u8>,
    /// It has come to its end, with these trailers.
    whole: Option<Fields>,
    /// Some of it went by without being kept.
    lost: bool,
}

impl Kept {
    /// Makes it that of another body. The memory stays.
    pub fn clear(&mut self) {
        self.data.clear();
        self.whole = None;
        self.lost = false;
    }

    /// Takes in data that go nowhere else: while this is not full.
    pub fn gather(&mut self, data: &[u8]) {
        self.data.extend_from_slice(data);
    }

    /// The body has ended.
    pub fn ended(&mut self, trailers: Fields) {
        self.whole = Some(trailers);
    }

    /// A piece is on its way to a sink. It is kept if `wanted`, as long as there is room.
    pub fn passes(&mut self, piece: &Piece<'_>, wanted: bool) {
        match piece {
            Piece::Data(data) if wanted && !self.lost && self.data.len() + data.len() <= KEPT => {
                self.gather(data);
            }
            Piece::Data(_) => self.lost = true,
            Piece::End(trailers) => self.ended(trailers.cloned().unwrap_or_default()),
        }
    }

    /// Sends what was kept, and the end if that has come, and keeps it. Returns whether that was the whole body; else what was
    /// sent may still wait for a flush.
    pub async fn send(&self, sink: &mut Sink<'_>) -> Result<bool, Cut> {
        if !self.data.is_empty() {
            sink.data(&self.data).await?;
        }
        match &self.whole {
            Some(trailers) => sink.end(Some(trailers)).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Nothing of the body is still to come.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// Not all that has come is still here.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    pub fn is_full(&self) -> bool {
        self.data.len() >= KEPT
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// It is not sent again: gives large memory back.
    pub fn release(&mut self) {
        if self.data.capacity() > KEPT / 4 {
            self.data = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_by_unkept_is_remembered_as_lost() {
        let (half, whole) = ([0; KEPT / 2], [0; KEPT]);
        let mut kept = Kept::default();
        kept.passes(&Piece::Data(&half), true);
        kept.passes(&Piece::Data(&half), true);
        assert_eq!((kept.len(), kept.is_full(), kept.is_lost()), (KEPT, true, false));
        kept.passes(&Piece::Data(b"a"), true);
        assert_eq!((kept.len(), kept.is_lost()), (KEPT, true));
        kept.clear();
        assert_eq!((kept.is_empty(), kept.is_lost(), kept.is_whole()), (true, false, false));
        kept.passes(&Piece::Data(&whole), false);
        // Nothing after a gap is of use.
        kept.passes(&Piece::Data(b"a"), true);
        kept.passes(&Piece::End(None), true);
        assert_eq!((kept.is_empty(), kept.is_lost(), kept.is_whole()), (true, true, true));
    }
}
