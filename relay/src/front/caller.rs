//! The caller's side of one exchange, whichever version of HTTP it speaks: a body to take, and a place to answer.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use culvert_protocol::body::{Cut, Kept, Piece, Sink, Source};
use culvert_protocol::http1::{self, ReadError, Reply};
use culvert_protocol::http2;
use culvert_protocol::message::{Body, RequestHead, ResponseHead};
use culvert_protocol::socket::WriteHalf;
use culvert_protocol::timer::Timer;

use crate::config::Limits;
use crate::failure::{Failure, Side};
use crate::front::record::Exchange;
use crate::front::{is_grpc, manners};
use crate::service::Service;

#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) upload: Upload<'a>,
    pub(crate) answer: Answer<'a>,
    pub(crate) timer: &'a mut Timer,
    pub(crate) peer: &'a Peer,
    /// Where the request went, for the response to tell.
    pub(crate) route: Option<Box<str>>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Address and port, as they are shown.
    pub(crate) shown: String,
    /// The connection is TLS.
    pub(crate) secure: bool,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, secure: bool) -> Self {
        Self { address: address.ip().to_canonical(), shown: address.to_string(), secure }
    }
}

/// The request's body: its beginning, kept, and the rest where it comes from.
#[derive(Debug)]
pub(crate) struct Upload<'a> {
    pub(crate) source: Source<'a>,
    /// Taken before anyone is asked, so that it leaves in one write with the head, and can be sent elsewhere if the first one
    /// asked refuses.
    kept: &'a mut Kept,
}

/// Where the answer goes.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Http1 {
        writer: &'a mut http1::Writer<WriteHalf>,
        reply: Reply,
        /// Something of a final answer was said: no other one can be.
        committed: bool,
        /// The connection can carry another exchange.
        keep_alive: bool,
        /// The connection is to end without a proper end.
        aborted: bool,
    },
    Http2 {
        respond: h2::server::SendResponse<Bytes>,
        /// The request was HEAD: no body follows.
        to_head: bool,
        /// There once the final head was said.
        body: Option<http2::Writer>,
        /// That head began the answer to a gRPC call.
        call: bool,
    },
}

impl<'a> Caller<'a> {
    pub(crate) fn new(
        source: Source<'a>,
        kept: &'a mut Kept,
        answer: Answer<'a>,
        timer: &'a mut Timer,
        peer: &'a Peer,
    ) -> Self {
        kept.clear();
        Self { upload: Upload { source, kept }, answer, timer, peer, route: None }
    }

    /// Takes what is here of the body without waiting. A chunked body is waited for until its first chunk's head has
    /// been checked, so that no destination sees a request that would have been refused.
    pub(crate) async fn gather(&mut self, head: &RequestHead, service: &Service) -> Result<(), Failure> {
        if !head.upgrade.is_empty() {
            return Ok(());
        }
        let chunked = matches!(self.upload.source, Source::Http1(_)) && head.body == Body::Streamed;
        let mut wait = chunked && !head.expects_continue;
        let upload = &mut self.upload;
        while !upload.kept.is_full() {
            match upload.source.piece().map_err(caller_cut)? {
                Some(Piece::Data(data)) => upload.kept.gather(data),
                Some(Piece::End(trailers)) => {
                    // What decides where a request goes stands before its body or nowhere.
                    let trailers = trailers.map(|trailers| trailers.without(|name| service.steers(name)));
                    upload.kept.ended(trailers.map(Cow::into_owned).unwrap_or_default());
                    return Ok(());
                }
                None if wait && upload.kept.is_empty() => {
                    let limit = service.limits.body_idle;
                    let filled = self.timer.within(limit, upload.source.fill()).await;
                    filled.unwrap_or(Err(Cut::Stalled(limit))).map_err(caller_cut)?;
                    continue;
                }
                None => return Ok(()),
            }
            wait = false;
        }
        Ok(())
    }

    /// Answers in the relay's own name, if nothing was answered yet; else cuts the answer short, so that nobody takes it for whole.
    pub(crate) async fn fail(
        &mut self,
        failure: &Failure,
        grpc: bool,
        limits: &Limits,
        exchange: &mut Exchange<'_>,
    ) {
        let open = !self.answer.is_committed();
        exchange.failed(failure, open);
        match failure {
            Failure::CallerStalled(_) => return self.answer.abandon(),
            Failure::CallerGone => return self.answer.cut(),
            _ => {}
        }
        if !open {
            let ended = self.timer.within(limits.write_idle, self.answer.end_call(failure)).await;
            if !matches!(ended, Ok(true)) {
                self.answer.cut();
            }
            return;
        }
        if failure.side() == Side::Caller && self.answer.reset_stream(failure) {
            return;
        }
        if !self.upload.is_whole() || failure.side() == Side::Caller {
            self.answer.is_last();
        }
        let (mut head, body) = if grpc { failure.render_grpc() } else { failure.render() };
        manners::dress(&mut head, self.route.as_deref(), false);
        let bodiless = body.is_empty() || self.answer.is_to_head();
        let said = async {
            self.answer.head(&head)?;
            let mut sink = self.answer.sink()?;
            if !bodiless {
                sink.data(&body).await?;
            }
            sink.end(None).await
        };
        if !matches!(self.timer.within(limits.write_idle, said).await, Ok(Ok(()))) {
            self.answer.cut();
        }
    }
}

impl<'a> Upload<'a> {
    /// Where the rest comes from, and what keeps what comes.
    pub(crate) fn keeping(&mut self) -> (&mut Source<'a>, &mut Kept) {
        (&mut self.source, self.kept)
    }

    /// All of it that was taken is still here.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        !self.kept.is_lost()
    }

    /// Sends what was kept, with the end if that was kept too, and keeps it.
    pub(crate) async fn send_kept(&mut self, sink: &mut Sink<'_>) -> Result<(), Cut> {
        if self.kept.send(sink).await? { Ok(()) } else { sink.flush().await }
    }

    /// Nothing of the body is still to come.
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.is_whole()
    }

    pub(crate) fn kept(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Somebody has accepted the request: what was kept is not sent again.
    pub(crate) fn commit(&mut self) {
        self.kept.release();
    }

    /// Resolves when the caller hangs up, as far as that can be seen on this side.
    pub(crate) async fn hung_up(&mut self) {
        match &mut self.source {
            Source::Http1(reader) => reader.hung_up().await,
            Source::Http2(_) | Source::Tunnel(_) => std::future::pending().await,
        }
    }
}

impl<'a> Answer<'a> {
    /// Nothing is said yet.
    pub(crate) fn http1(writer: &'a mut http1::Writer<WriteHalf>, reply: Reply) -> Self {
        Self::Http1 { writer, reply, committed: false, keep_alive: false, aborted: false }
    }
}

impl Answer<'_> {
    pub(crate) fn is_committed(&self) -> bool {
        match self {
            Self::Http1 { committed, .. } => *committed,
            Self::Http2 { body, .. } => body.is_some(),
        }
    }

    /// An informational response.
    pub(crate) async fn inform(&mut self, head: &ResponseHead) -> Result<(), Cut> {
        match self {
            Self::Http1 { writer, reply, .. } => {
                writer.inform(head, *reply);
                Ok(writer.flush().await?)
            }
            Self::Http2 { respond, .. } => match http2::response(head) {
                Ok(response) => Ok(respond.send_informational(response)?),
                Err(_) => Err(Cut::Misplaced),
            },
        }
    }

    /// Resolves when the caller takes no answer any more, where that can be heard on this side.
    pub(crate) async fn gone(&mut self) {
        match self {
            Self::Http1 { .. } => std::future::pending().await,
            Self::Http2 { body: Some(body), .. } => _ = body.gone().await,
            Self::Http2 { respond, body: None, .. } => _ = poll_fn(|cx| respond.poll_reset(cx)).await,
        }
    }

    /// A final response's head; it leaves with the body's first bytes.
    pub(crate) fn head(&mut self, head: &ResponseHead) -> Result<(), Cut> {
        match self {
            Self::Http1 { writer, reply, committed, keep_alive, .. } => {
                *keep_alive = writer.response(head, *reply);
                *committed = true;
                Ok(())
            }
            Self::Http2 { respond, to_head, body, call } => {
                *call = is_grpc(&head.fields);
                let response = http2::response(head).map_err(|_| Cut::Misplaced)?;
                let ended =
                    head.status != 101 && (*to_head || matches!(head.body, Body::Empty | Body::Exact(0)));
                *body = Some(http2::Writer::new(respond.send_response(response, ended)?, ended, head.body));
                Ok(())
            }
        }
    }

    /// Where the body goes, once the head is said.
    pub(crate) fn sink(&mut self) -> Result<Sink<'_>, Cut> {
        match self {
            Self::Http1 { writer, .. } => Ok(Sink::Http1(writer)),
            Self::Http2 { body: Some(body), .. } => Ok(Sink::Http2(body)),
            Self::Http2 { body: None, .. } => Err(Cut::Misplaced),
        }
    }

    /// Ends the answer to a gRPC call that has begun with what its trailers say of a failure. `false`: it is none, or its
    /// caller takes no more of it.
    async fn end_call(&mut self, failure: &Failure) -> bool {
        let Self::Http2 { body: Some(body), call: true, .. } = self else { return false };
        let (said, _) = failure.render_grpc();
        let trailers = said.fields.iter().filter(|(name, _)| name.starts_with(b"grpc-")).collect();
        body.end(Some(&trailers)).await.is_ok()
    }

    /// The caller speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2 { .. })
    }

    /// From here on the bytes are another protocol's.
    pub(crate) fn upgrade(&mut self) {
        if let Self::Http1 { writer, keep_alive, .. } = self {
            writer.upgrade();
            *keep_alive = false;
        }
    }

    /// The connection can carry another exchange after this one.
    pub(crate) fn keeps_alive(&self) -> bool {
        matches!(self, Self::Http1 { keep_alive: true, .. })
    }

    /// Nothing more may be said on the connection, not even goodbye.
    pub(crate) fn is_aborted(&self) -> bool {
        matches!(self, Self::Http1 { aborted: true, .. })
    }

    /// The connection ends with this exchange.
    pub(crate) fn is_last(&mut self) {
        if let Self::Http1 { reply, .. } = self {
            reply.keep_alive = false;
        }
    }

    /// Ends a malformed HTTP/2 request as RFC 9113 §8.1.1 has it. `false`: it is to be answered.
    fn reset_stream(&mut self, failure: &Failure) -> bool {
        match (self, failure) {
            (Self::Http2 { respond, .. }, failure) if failure.status() == 400 => {
                respond.send_reset(h2::Reason::PROTOCOL_ERROR);
                true
            }
            _ => false,
        }
    }

    fn is_to_head(&self) -> bool {
        match self {
            Self::Http1 { reply, .. } => reply.to_head,
            Self::Http2 { to_head, .. } => *to_head,
        }
    }

    /// Lets go of a caller that takes nothing, together with what waits for it: megabytes, which the system would hold for as
    /// long as the caller's own system is there to say that it has no room yet.
    fn abandon(&mut self) {
        self.cut();
        if let Self::Http1 { writer, aborted, .. } = self {
            writer.get_mut().abort();
            *aborted = true;
        }
    }

    /// Ends the exchange so that the caller sees that it is not whole.
    pub(crate) fn cut(&mut self) {
        match self {
            Self::Http1 { writer, keep_alive, committed, aborted, .. } => {
                *aborted |= *committed && writer.abort_unended();
                *keep_alive = false;
                *committed = true;
            }
            Self::Http2 { body: Some(body), .. } => body.reset(h2::Reason::INTERNAL_ERROR),
            Self::Http2 { respond, body: None, .. } => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }
}

/// What went wrong while a body came from the caller.
pub(crate) fn caller_cut(cut: Cut) -> Failure {
    match cut {
        Cut::Read(ReadError::Refused(refusal)) => Failure::Refused(refusal),
        Cut::Read(ReadError::Cut) | Cut::Io(_) | Cut::Http2(_) => Failure::CallerGone,
        other => Failure::CallerCut(other.to_string()),
    }
}
