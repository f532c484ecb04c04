//! A body on its way: taken from one side in pieces, put on the other, whatever carries either.

use crate::message::Fields;

/// What a body's next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Body bytes; never none.
    Data(&'a [u8]),
    /// The body has ended as its sender meant it to, with these trailers.
    End(Option<&'a Fields>),
}
