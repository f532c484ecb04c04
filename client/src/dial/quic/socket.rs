//! The UDP socket under a QUIC tunnel, which can be exchanged for another without quinn's knowing: packets leave from another
//! port from then on, and the relay follows. Hears a relay that knocks. Speaks no QUIC.
//!
//! quinn's own `Endpoint::rebind` tells the connection, which takes another connection id into use and tells the endpoint; of a
//! connection that a reset ended a moment before the endpoint has forgotten all, panics, and takes the process with it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};

use culvert_protocol::tunnel::KNOCK;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;

use super::super::answers::Answers;

#[derive(Debug)]
pub(super) struct Exchangeable {
    sockets: Mutex<Sockets>,
    /// Who waits for packets, and who for room: both are to look at the new socket.
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Told of the first packet.
    answers: Answers,
    first: Once,
    /// Where knocks come from that are heard.
    relay: SocketAddr,
    knocked: Notify,
}

#[derive(Clone, Debug)]
struct Sockets {
    now: Arc<dyn AsyncUdpSocket>,
    /// What is still under way arrives here, until something does on the new one.
    before: Option<Arc<dyn AsyncUdpSocket>>,
}

impl Exchangeable {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, relay: SocketAddr, answers: &Answers) -> Self {
        let sockets = Mutex::new(Sockets { now: socket, before: None });
        let (reader, writer) = (AtomicWaker::new(), AtomicWaker::new());
        let (answers, first, knocked) = (answers.clone(), Once::new(), Notify::new());
        Self { sockets, reader, writer, answers, first, relay, knocked }
    }

    /// The relay has knocked, or somebody who can put its address on a packet.
    pub(super) async fn knocked(&self) {
        self.knocked.notified().await;
    }

    pub(super) fn exchange(&self, socket: Arc<dyn AsyncUdpSocket>) {
        {
            let mut sockets = self.sockets.lock();
            sockets.before = Some(std::mem::replace(&mut sockets.now, socket));
        }
        self.reader.wake();
        self.writer.wake();
    }

    fn now(&self) -> Arc<dyn AsyncUdpSocket> {
        Arc::clone(&self.sockets.lock().now)
    }

    fn receive(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // First, so that an exchange from here on is noticed.
        self.reader.register(cx.waker());
        let Sockets { now, before } = self.sockets.lock().clone();
        let Some(before) = before else { return now.poll_recv(cx, bufs, meta) };
        if let Poll::Ready(read) = now.poll_recv(cx, bufs, meta) {
            let mut sockets = self.sockets.lock();
            // Unless there is a newer one by now.
            if Arc::ptr_eq(&sockets.now, &now) {
                sockets.before = None;
            }
            return Poll::Ready(read);
        }
        match before.poll_recv(cx, bufs, meta) {
            Poll::Ready(Ok(read)) => Poll::Ready(Ok(read)),
            // Its network may be gone: that says nothing of the new one.
            Poll::Ready(Err(_)) => {
                self.sockets.lock().before = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncUdpSocket for Exchangeable {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let socket = self.now();
        let poller = Arc::clone(&socket).create_io_poller();
        Box::pin(Poller { all: self, socket, poller })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.now().try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let read = self.receive(cx, bufs, meta);
        if let Poll::Ready(Ok(read)) = read {
            self.first.call_once(|| self.answers.heard());
            if bufs.iter().zip(&*meta).take(read).any(|(buf, meta)| is_knock(buf, meta, self.relay)) {
                self.knocked.notify_one();
            }
        }
        read
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.now().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.now().max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.now().max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.now().may_fragment()
    }
}

/// What arrives together, of which this may be the first, has one length. One that is missed costs a moment.
fn is_knock(buf: &[u8], meta: &RecvMeta, relay: SocketAddr) -> bool {
    meta.stride.min(meta.len) == KNOCK.len() && buf.starts_with(&KNOCK) && meta.addr == relay
}

#[derive(Debug)]
struct Poller {
    all: Arc<Exchangeable>,
    /// Whose poller this is.
    socket: Arc<dyn AsyncUdpSocket>,
    poller: Pin<Box<dyn UdpPoller>>,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.all.writer.register(cx.waker());
        let now = this.all.now();
        if !Arc::ptr_eq(&now, &this.socket) {
            this.poller = Arc::clone(&now).create_io_poller();
            this.socket = now;
        }
        this.poller.as_mut().poll_writable(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket;
    use std::time::Duration;

    use quinn::{Runtime as _, TokioRuntime};
    use tokio::time::timeout;

    use super::*;

    fn socket() -> (Arc<dyn AsyncUdpSocket>, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (TokioRuntime.wrap_udp_socket(socket).unwrap(), address)
    }

    async fn receive(socket: &Exchangeable) -> Vec<u8> {
        let (mut buffer, mut meta) = (vec![0; 2048], [RecvMeta::default()]);
        let reading = poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
        buffer.truncate(meta[0].len);
        buffer
    }

    #[tokio::test]
    async fn what_leaves_comes_from_the_new_port_and_what_was_under_way_to_the_old_one_still_arrives() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let ((old, old_address), (new, new_address)) = (socket(), socket());
        let relay = peer.local_addr().unwrap();
        let socket = Arc::new(Exchangeable::new(old, relay, &Answers::awaited(Duration::ZERO)));
        // Somebody waits already, on the old one.
        let waiting = receive(&socket);
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        socket.exchange(new);
        peer.send_to(b"to the old", old_address).unwrap();
        assert_eq!(waiting.await, b"to the old");
        peer.send_to(b"to the new", new_address).unwrap();
        assert_eq!(receive(&socket).await, b"to the new");

        let mut poller = Arc::clone(&socket).create_io_poller();
        timeout(Duration::from_secs(20), poll_fn(|cx| poller.as_mut().poll_writable(cx)))
            .await
            .unwrap()
            .unwrap();
        let destination = peer.local_addr().unwrap();
        let transmit =
            Transmit { destination, ecn: None, contents: b"from", segment_size: None, src_ip: None };
        socket.try_send(&transmit).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(peer.recv_from(&mut [0; 16]).unwrap(), (4, new_address));
    }

    #[tokio::test]
    async fn a_knock_is_heard_from_the_relay_alone() {
        let (relay, stranger) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (socket, address) = socket();
        let answers = Answers::awaited(Duration::ZERO);
        let socket = Exchangeable::new(socket, relay.local_addr().unwrap(), &answers);
        let longer = [&KNOCK[..], b"!"].concat();
        for (from, said, knocks) in [
            (&stranger, &KNOCK[..], false),
            (&relay, &KNOCK[1..], false),
            (&relay, &longer, false),
            (&relay, &KNOCK, true),
            (&relay, b"", false),
        ] {
            from.send_to(said, address).unwrap();
            assert_eq!(receive(&socket).await, said, "quinn has it all the same");
            let heard = timeout(Duration::ZERO, socket.knocked()).await.is_ok();
            assert_eq!(heard, knocks, "{said:?}");
        }
    }
}
