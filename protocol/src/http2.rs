//! HTTP/2 (RFC 9113, by the `h2` crate) as the same messages: heads to and from `http`'s types, bodies as halves.
//!
//! A WebSocket has one shape inside, HTTP/1's `Upgrade`; RFC 8441's is put on and taken off here. Nothing here opens or
//! accepts a connection.

mod answer;
mod head;
mod stream;
pub(crate) mod websocket;

pub use answer::Answer;
pub use head::{request, request_to, response, response_from};
pub use stream::{Reader, WriteError, Writer};

#[cfg(test)]
mod tests;
