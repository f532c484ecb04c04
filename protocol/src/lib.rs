//! What both ends of a tunnel agree on: HTTP messages and their HTTP/1 codec, the wire, the multiplexers.
//! No configuration, no listener, no clock of its own.

pub mod answers;
pub mod body;
pub mod frame;
pub mod head;
pub mod hello;
pub mod http1;
pub mod http2;
pub mod intercept;
pub mod message;
pub mod origin;
pub mod socket;
pub mod tunnel;
