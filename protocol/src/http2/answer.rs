//! What an HTTP/2 origin answers to one request: informational heads, a final one, and then its body.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use h2::client::ResponseFuture;

use super::head::response_from;
use super::{Reader, websocket};
use crate::body::Cut;
use crate::message::{RequestHead, ResponseHead};

/// The half of a stream that answers.
#[derive(Debug)]
pub struct Answer {
    state: State,
    method: Vec<u8>,
    upgrade: Vec<u8>,
    key: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    Awaited(ResponseFuture),
    Answered(Reader),
}

impl Answer {
    pub fn new(future: ResponseFuture, request: &RequestHead) -> Self {
        Self {
            state: State::Awaited(future),
            method: request.method.clone(),
            upgrade: request.upgrade.clone(),
            key: request.fields.first("sec-websocket-key").map(<[u8]>::to_vec),
        }
    }

    /// Waits for the next head and puts it in `head`. Nothing is lost if this is dropped.
    pub async fn head(&mut self, head: &mut ResponseHead) -> Result<(), Cut> {
        let State::Awaited(future) = &mut self.state else { return Err(Cut::Misplaced) };
        // The final head is asked for once it is there: h2 drops the informational ones that come while somebody waits for it.
        let heard = poll_fn(|cx| match ready!(future.poll_informational(cx)) {
            Some(informed) => Poll::Ready(informed.map(Heard::Informed)),
            None => Pin::new(&mut *future).poll(cx).map(|answered| answered.map(Heard::Answered)),
        });
        match heard.await? {
            Heard::Informed(response) => {
                response_from(&response.into_parts().0, false, &self.method, head).map_err(Cut::Malformed)
            }
            Heard::Answered(response) => {
                let (parts, stream) = response.into_parts();
                response_from(&parts, stream.is_end_stream(), &self.method, head).map_err(Cut::Malformed)?;
                if !self.upgrade.is_empty() && head.status == 200 {
                    websocket::switched(&self.upgrade, self.key.as_deref(), head);
                }
                self.state = State::Answered(Reader::new(stream));
                Ok(())
            }
        }
    }

    /// The body, once the final head was heard.
    pub fn body(&mut self) -> Option<&mut Reader> {
        match &mut self.state {
            State::Answered(reader) => Some(reader),
            State::Awaited(_) => None,
        }
    }
}

enum Heard {
    Informed(http::Response<()>),
    Answered(http::Response<h2::RecvStream>),
}
