//! What both ends of a tunnel agree on: HTTP messages and their HTTP/1 codec, the wire, the multiplexers.
//! No configuration, no listener.

// What is carried: messages, and how HTTP/1 and HTTP/2 spell them.
pub mod message;

pub mod http1;
pub mod http2;

// What is agreed on: claims, and what is said about them and on each stream.
pub mod intercept;

pub mod hello;

pub mod head;

pub mod frame;

// What carries it.
pub mod tunnel;

pub mod socket;

pub mod origin;

// What moves from one to the other.
pub mod answers;
pub mod body;

// How long it may take.
pub mod timer;
