//! What whoever got a request says before the body of an answer, whatever carries it.

use crate::body::{Cut, Source, TunnelReader};
use crate::frame::{Frame, Refusal};
use crate::message::{Body, FAILURE_FIELD, Fields, ResponseHead};
use crate::socket::ReadHalf;
use crate::{head, http1, http2};

/// 1xx responses before a final one: a 100, some 102 and 103. Neither the relay nor the client passes on more.
pub const MOST_INFORMED: usize = 16;

/// Where answers come from.
#[derive(Debug)]
pub enum Answers<'a> {
    Http1 { reader: &'a mut http1::Reader<ReadHalf>, method: &'a [u8] },
    Http2(&'a mut http2::Answer),
    Tunnel(&'a mut TunnelReader),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The app is there and is being handed the request.
    Accepted,
    /// Nothing was executed, and nothing ever will be.
    Refused(Refusal),
    /// A 1xx head.
    Informed,
    /// A final head.
    Answered,
    /// A 101 head.
    Upgraded,
    /// The client's own word, down a tunnel: the app may have had the request, and no answer of it will come.
    Failed(NoAnswer),
}

/// Why there is no answer of the app's. On the wire it is an answer of 502 with a field that says so, and that the client
/// takes off whatever an app answers: nobody else can say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoAnswer {
    /// It closed the connection before it answered, or fell silent.
    Closed,
    /// What it said is not HTTP.
    Garbage,
    /// It does not speak the protocol that was asked for (RFC 8441).
    NoUpgrade,
    /// A reason that this version does not know.
    Other,
}

impl NoAnswer {
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "app_no_answer",
            Self::Garbage => "app_bad_answer",
            Self::NoUpgrade => "app_no_upgrade",
            Self::Other => "app_failed",
        }
    }

    /// As the client says it; nothing follows.
    pub fn head(self) -> ResponseHead {
        let mut fields = Fields::default();
        fields.push(FAILURE_FIELD.as_bytes(), self.label().as_bytes());
        ResponseHead { status: 502, fields, body: Body::Empty, ..ResponseHead::default() }
    }

    /// What a head that came down a tunnel says of it.
    fn told(response: &ResponseHead) -> Option<Self> {
        let label = response.fields.first(FAILURE_FIELD)?;
        let known = [Self::Closed, Self::Garbage, Self::NoUpgrade];
        Some(known.into_iter().find(|why| why.label().as_bytes() == label).unwrap_or(Self::Other))
    }
}

impl Said {
    fn head(response: &ResponseHead) -> Self {
        match response.status {
            101 => Self::Upgraded,
            100..=199 => Self::Informed,
            _ => Self::Answered,
        }
    }
}

impl Answers<'_> {
    /// Waits for the next thing said before a body; a head is put in `response`. Nothing is lost if this is dropped.
    pub async fn next(&mut self, response: &mut ResponseHead) -> Result<Said, Cut> {
        match self {
            Self::Http1 { reader, method } => {
                while !reader.response(method, response)? {
                    reader.fill().await?;
                }
                Ok(Said::head(response))
            }
            Self::Http2(answer) => {
                answer.head(response).await?;
                Ok(Said::head(response))
            }
            Self::Tunnel(reader) => loop {
                let Some(frame) = reader.frames.frame()? else {
                    if reader.frames.fill().await? == 0 {
                        return Err(Cut::Ended);
                    }
                    continue;
                };
                return Ok(match frame {
                    Frame::Accepted => Said::Accepted,
                    Frame::Refused(why, _) => Said::Refused(why),
                    Frame::Inform(payload) => {
                        head::decode_inform(payload, response)?;
                        Said::Informed
                    }
                    Frame::Upgraded(payload) => {
                        head::decode_upgraded(payload, response)?;
                        Said::Upgraded
                    }
                    Frame::Head(payload) => {
                        head::decode_response(payload, response)?;
                        NoAnswer::told(response).map_or(Said::Answered, Said::Failed)
                    }
                    Frame::Confirmed | Frame::Data(_) | Frame::End(_) => return Err(Cut::Misplaced),
                });
            },
        }
    }

    /// The body that follows a final head, or a 101.
    pub fn body(&mut self) -> Result<Source<'_>, Cut> {
        match self {
            Self::Http1 { reader, .. } => Ok(Source::Http1(reader)),
            Self::Http2(answer) => answer.body().map(Source::Http2).ok_or(Cut::Misplaced),
            Self::Tunnel(reader) => Ok(Source::Tunnel(reader)),
        }
    }

    /// From here on the bytes are another protocol's (after a 101).
    pub fn upgrade(&mut self) {
        if let Self::Http1 { reader, .. } = self {
            reader.upgrade();
        }
    }
}
