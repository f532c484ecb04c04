//! One request under way to an origin: where its body goes, and where the answer comes from.

use std::future::poll_fn;

use super::{Carrier, Connection, EXCHANGES, Http1, Http2};
use crate::answers::Answers;
use crate::body::{Cut, Sink};
use crate::http2;
use crate::message::{RequestHead, ResponseHead};

#[derive(Debug)]
pub struct Exchange(pub(super) Carried);

#[derive(Debug)]
pub(super) enum Carried {
    Http1(Box<Http1>),
    Http2(Box<Stream>),
}

#[derive(Debug)]
pub(super) struct Stream {
    connection: Http2,
    writer: http2::Writer,
    answer: http2::Answer,
    response: ResponseHead,
}

impl Connection {
    /// Says a request's head. It leaves with the next flush of the body; on HTTP/2 it may wait until the origin takes another stream.
    pub async fn request(self, head: &RequestHead) -> Result<Exchange, Cut> {
        match self.carrier {
            Carrier::Http1(mut connection) => {
                connection.writer.request(head);
                Ok(Exchange(Carried::Http1(connection)))
            }
            Carrier::Http2(mut connection) => {
                if !head.upgrade.is_empty() && !connection.send.is_extended_connect_protocol_enabled() {
                    return Err(Cut::NoUpgrade);
                }
                let (request, ended) = http2::request_to(head, connection.scheme, &connection.authority)
                    .map_err(Cut::Malformed)?;
                poll_fn(|cx| connection.send.poll_ready(cx)).await?;
                let (future, stream) = connection.send.send_request(request, ended)?;
                connection.carried += 1;
                Ok(Exchange(Carried::Http2(Box::new(Stream {
                    connection,
                    writer: http2::Writer::new(stream, ended, head.body),
                    answer: http2::Answer::new(future, head),
                    response: ResponseHead::default(),
                }))))
            }
        }
    }
}

impl Exchange {
    /// What the next exchange can begin on. A connection that has said more than was asked is not used again.
    pub(super) fn carrier(self) -> Option<Carrier> {
        match self.0 {
            Carried::Http1(connection) => {
                connection.reader.is_drained().then_some(Carrier::Http1(connection))
            }
            Carried::Http2(stream) => {
                let Stream { connection, .. } = *stream;
                (connection.carried < EXCHANGES).then_some(Carrier::Http2(connection))
            }
        }
    }

    /// Both directions, for use at once, and the place for the head of the answer.
    pub fn split<'a>(
        &'a mut self,
        request: &'a RequestHead,
    ) -> (Sink<'a>, Answers<'a>, &'a mut ResponseHead) {
        match &mut self.0 {
            Carried::Http1(connection) => {
                let Http1 { reader, writer, response } = &mut **connection;
                (Sink::Http1(writer), Answers::Http1 { reader, method: &request.method }, response)
            }
            Carried::Http2(stream) => {
                let Stream { writer, answer, response, .. } = &mut **stream;
                (Sink::Http2(writer), Answers::Http2(answer), response)
            }
        }
    }
}
