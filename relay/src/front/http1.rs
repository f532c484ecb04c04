//! A caller's HTTP/1 connection: a head, its exchange, and again.

use std::time::Duration;

use bytes::BytesMut;
use culvert_protocol::body::{Kept, Source};
use culvert_protocol::http1::connection::ReadError;
use culvert_protocol::http1::{Limits, Reader, Refusal, Reply, Writer};
use culvert_protocol::message::RequestHead;
use culvert_protocol::socket::{ReadHalf, WriteHalf};
use culvert_protocol::timer::Timer;
use tokio::time::{Instant, timeout};

use super::accept::{Door, jittered};
use super::caller::{Answer, Caller, Peer};
use super::record::Exchange;
use crate::failure::Failure;

/// Room for the first read of a connection: most heads fit.
pub(super) const FIRST_READ: usize = 8 * 1024;
/// A connection on which exchanges follow each other within so long keeps what they need in between.
const WARM: Duration = Duration::from_secs(1);
/// A refused caller is listened to for so long and so much after our last word, so that it reads it before the reset that
/// closing on unread bytes would be (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

pub(super) async fn connection(
    (read, write): (ReadHalf, WriteHalf),
    peer: Peer,
    first: BytesMut,
    deadline: Instant,
    door: &Door,
) {
    let mut connection = Connection {
        reader: Reader::with_buffer(read, Limits::default(), first),
        writer: Writer::new(write),
        timer: Timer::default(),
        keep_alive: jittered(door.service.limits.keep_alive),
        warm: Duration::ZERO,
    };
    let mut deadline = Some(deadline);
    // What exchanges need is there while they follow each other, and not for the hours in between.
    while Box::pin(connection.exchanges(deadline.take(), &peer, door)).await {
        if !connection.idle(door).await {
            return;
        }
    }
}

/// What may follow a head, or an exchange, on its connection.
enum Next {
    Exchange,
    /// Nothing, for a moment.
    Idle,
    Goodbye,
    /// Its end must not look like a proper one.
    Nothing,
}

struct Connection {
    reader: Reader<ReadHalf>,
    writer: Writer<WriteHalf>,
    timer: Timer,
    /// How long it may stand idle.
    keep_alive: Duration,
    /// How long of that it keeps what exchanges need: not at all, until they turn out to follow each other.
    warm: Duration,
}

/// Whatever ends an exchange before its time ends this: an answer that only a proper end makes whole must not get one.
impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.abort_unended();
    }
}

impl Connection {
    /// One exchange after the other. `true`: none has come for a moment.
    async fn exchanges(&mut self, mut deadline: Option<Instant>, peer: &Peer, door: &Door) -> bool {
        let (mut head, mut kept) = (RequestHead::default(), Kept::default());
        loop {
            let next = match self.head(&mut head, deadline.take(), door).await {
                Ok(Next::Exchange) => self.exchange(&mut head, &mut kept, peer, door).await,
                Ok(next) => next,
                Err(failure) => self.refuse(&failure, &mut kept, peer, door).await,
            };
            match next {
                Next::Exchange => {}
                Next::Idle => return true,
                Next::Goodbye => {
                    self.close().await;
                    return false;
                }
                Next::Nothing => return false,
            }
        }
    }

    /// The next request's head. Without a deadline there may be none for a moment, and it has one from its first byte on,
    /// however slowly the rest comes.
    async fn head(
        &mut self,
        head: &mut RequestHead,
        mut deadline: Option<Instant>,
        door: &Door,
    ) -> Result<Next, Failure> {
        loop {
            match self.reader.request(head) {
                Ok(true) => return Ok(Next::Exchange),
                Ok(false) => {}
                Err(ReadError::Refused(refusal)) => return Err(Failure::Refused(refusal)),
                Err(ReadError::Cut) => return Ok(Next::Nothing),
            }
            if deadline.is_none() && self.reader.is_empty() {
                if self.warm.is_zero() {
                    return Ok(Next::Idle);
                }
                match self.timer.within(self.warm, self.reader.fill()).await {
                    Ok(Ok(1..)) => continue,
                    Ok(_) => return Ok(Next::Nothing),
                    Err(_) => return Ok(Next::Idle),
                }
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + door.service.limits.head_read);
            match self.timer.until(deadline, self.reader.fill()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Ok(Next::Nothing),
                Err(_) => return Err(Failure::HeadTimeout),
            }
        }
    }

    /// Stands idle, without buffers, until something has come. `false`: nothing came, or the door is closing.
    async fn idle(&mut self, door: &Door) -> bool {
        self.reader.rest();
        self.writer.rest();
        let since = Instant::now();
        let rest = self.keep_alive - self.warm;
        let ready = tokio::select! {
            biased;
            ready = self.timer.within(rest, self.reader.ready()) => ready.is_ok(),
            () = door.stop.cancelled() => false,
        };
        self.warm = if since.elapsed() < WARM { WARM.min(self.keep_alive) } else { Duration::ZERO };
        // What is not plain TCP has been read from to know.
        ready
            && (!self.reader.is_empty() || {
                let read = self.timer.within(door.service.limits.head_read, self.reader.fill()).await;
                matches!(read, Ok(Ok(1..)))
            })
    }

    /// One exchange.
    async fn exchange(&mut self, head: &mut RequestHead, kept: &mut Kept, peer: &Peer, door: &Door) -> Next {
        let mut reply = Reply::to(head);
        reply.keep_alive &= !door.stop.is_cancelled();
        let answer = Answer::http1(&mut self.writer, reply);
        let source = Source::Http1(&mut self.reader);
        let mut caller = Caller::new(source, kept, answer, &mut self.timer, peer);
        super::request(head, &mut caller, &door.service).await;
        let (again, aborted) = (caller.answer.keeps_alive(), caller.answer.is_aborted());
        match again && self.reader.is_between_messages() {
            true => Next::Exchange,
            false if aborted => Next::Nothing,
            false => Next::Goodbye,
        }
    }

    /// Answers what is not a request.
    async fn refuse(&mut self, failure: &Failure, kept: &mut Kept, peer: &Peer, door: &Door) -> Next {
        if matches!(failure, Failure::Refused(Refusal::RequestLine)) && self.reader.is_foreign() {
            // Who speaks another protocol would take an answer in HTTP for one in its own.
            door.service.metrics.rejected(failure.label());
            return Next::Nothing;
        }
        let mut exchange = Exchange::begin(&door.service);
        let answer = Answer::http1(&mut self.writer, Reply::default());
        let source = Source::Http1(&mut self.reader);
        let mut caller = Caller::new(source, kept, answer, &mut self.timer, peer);
        caller.fail(failure, false, &door.service.limits, &mut exchange).await;
        Next::Goodbye
    }

    /// Finishes our half, and hears the caller out for a moment.
    async fn close(&mut self) {
        let farewell = async {
            self.writer.finish().await?;
            let mut heard = 0;
            while heard < LINGER_BYTES {
                match self.reader.discard().await? {
                    0 => break,
                    read => heard += read,
                }
            }
            std::io::Result::Ok(())
        };
        // Whether the caller still listened makes no difference to anyone.
        let _ = timeout(LINGER, farewell).await;
    }
}
