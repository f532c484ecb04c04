//! What both ends of a tunnel agree on: HTTP messages and their HTTP/1 codec, the wire, the multiplexers.
//! No configuration, no listener, no clock of its own.

pub mod message;
pub mod http1;
pub mod body;
pub mod intercept;
pub mod hello;
pub mod head;
pub mod frame;
