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
/// A connection that has been idle for so long gives its buffers back.
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
        kept: Kept::default(),
        keep_alive: jittered(door.service.limits.keep_alive),
    };
    let mut head = RequestHead::default();
    let mut deadline = Some(deadline);
    loop {
        match connection.head(&mut head, deadline.take(), door).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(failure) => return connection.refuse(&failure, &peer, door).await,
        }
        match connection.exchange(&mut head, &peer, door).await {
            Next::Exchange => {}
            Next::Goodbye => return connection.close().await,
            Next::Nothing => return,
        }
    }
}

/// What may follow an exchange on its connection.
enum Next {
    Exchange,
    Goodbye,
    /// Its end must not look like a proper one.
    Nothing,
}

struct Connection {
    reader: Reader<ReadHalf>,
    writer: Writer<WriteHalf>,
    timer: Timer,
    /// The beginning of the body under way.
    kept: Kept,
    /// How long it may stand idle.
    keep_alive: Duration,
}

/// Whatever ends an exchange before its time ends this: an answer that only a proper end makes whole must not get one.
impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.abort_unended();
    }
}

impl Connection {
    /// The next request's head. Without a deadline it may be idle first, and has one from its first byte on, however slowly
    /// the rest comes. `false`: the caller is done, or is to be let go.
    async fn head(
        &mut self,
        head: &mut RequestHead,
        mut deadline: Option<Instant>,
        door: &Door,
    ) -> Result<bool, Failure> {
        let limits = &door.service.limits;
        loop {
            match self.reader.request(head) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(ReadError::Refused(refusal)) => return Err(Failure::Refused(refusal)),
                Err(ReadError::Cut) => return Ok(false),
            }
            if deadline.is_none() && self.reader.is_empty() {
                if !self.idle(head, door).await {
                    return Ok(false);
                }
                continue;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.head_read);
            match self.timer.until(deadline, self.reader.fill()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Ok(false),
                Err(_) => return Err(Failure::HeadTimeout),
            }
        }
    }

    /// Stands idle until something has come; after a moment without buffers. `false`: nothing came, or the door is closing.
    async fn idle(&mut self, head: &mut RequestHead, door: &Door) -> bool {
        let warm = WARM.min(self.keep_alive);
        if let Ok(read) = self.timer.within(warm, self.reader.fill()).await {
            return read.is_ok_and(|read| read > 0);
        }
        self.reader.rest();
        self.writer.rest();
        (*head, self.kept) = (RequestHead::default(), Kept::default());
        let ready = tokio::select! {
            biased;
            ready = self.timer.within(self.keep_alive - warm, self.reader.ready()) => ready.is_ok(),
            () = door.stop.cancelled() => false,
        };
        // What is not plain TCP has been read from to know.
        ready
            && (!self.reader.is_empty() || {
                let read = self.timer.within(door.service.limits.head_read, self.reader.fill()).await;
                matches!(read, Ok(Ok(1..)))
            })
    }

    /// One exchange.
    async fn exchange(&mut self, head: &mut RequestHead, peer: &Peer, door: &Door) -> Next {
        let mut reply = Reply::to(head);
        reply.keep_alive &= !door.stop.is_cancelled();
        let answer = Answer::http1(&mut self.writer, reply);
        let source = Source::Http1(&mut self.reader);
        let mut caller = Caller::new(source, &mut self.kept, answer, &mut self.timer, peer);
        super::request(head, &mut caller, &door.service).await;
        let (again, aborted) = (caller.answer.keeps_alive(), caller.answer.is_aborted());
        match again && self.reader.is_between_messages() {
            true => Next::Exchange,
            false if aborted => Next::Nothing,
            false => Next::Goodbye,
        }
    }

    /// Answers what is not a request, and closes.
    async fn refuse(&mut self, failure: &Failure, peer: &Peer, door: &Door) {
        if matches!(failure, Failure::Refused(Refusal::RequestLine)) && self.reader.is_foreign() {
            // Who speaks another protocol would take an answer in HTTP for one in its own.
            return door.service.metrics.rejected(failure.label());
        }
        let mut exchange = Exchange::begin(&door.service);
        let answer = Answer::http1(&mut self.writer, Reply::default());
        let source = Source::Http1(&mut self.reader);
        let mut caller = Caller::new(source, &mut self.kept, answer, &mut self.timer, peer);
        caller.fail(failure, false, &door.service.limits, &mut exchange).await;
        drop(exchange);
        self.close().await;
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
