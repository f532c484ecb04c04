//! What a tunnel does, the same for every transport, and what only yamux can get wrong.
//! Nothing here sleeps for luck: every wait is for a condition, and the whole of each test has a limit.
#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy sees only functions marked #[test] as tests")]

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_protocol::tunnel::{
    CloseCode, CloseReason, Closed, Driver, IDLE_LIMIT, Limits, Lost, MAX_STREAMS, Side, Stream, StreamError,
    Transport, Tunnel, quic_transport,
};
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than any of these tests takes on a busy machine, the one that waits out the idle limit included.
const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! for_every_transport {
    ($($name:ident),* $(,)?) => {
        mod quic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::patiently(super::$name(super::Kind::Quic)).await;
            })*
        }
        mod yamux {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::patiently(super::$name(super::Kind::Yamux)).await;
            })*
        }
    };
}

for_every_transport!(
    both_sides_open_and_accept,
    a_stream_without_bytes_is_still_a_stream,
    a_silent_stream_does_not_keep_others_from_being_accepted,
    a_thousand_requests_wait_for_slow_answers_at_once,
    a_stalled_stream_holds_back_its_writer_and_nobody_else,
    a_crowd_of_stalled_streams_is_in_nobodys_way,
    each_direction_ends_on_its_own,
    a_message_that_was_cut_never_looks_whole,
    a_cut_is_seen_while_the_other_direction_goes_on,
    a_writer_learns_that_nobody_reads,
    a_writer_learns_that_its_answered_request_is_dropped,
    a_writer_in_a_full_tunnel_learns_that_nobody_reads,
    a_stream_that_only_just_ended_is_whole,
    opening_waits_at_the_limit_and_goes_on_when_a_stream_ends,
    a_reason_reaches_the_peer_from_either_side,
    a_reason_reaches_a_peer_that_said_nothing_yet,
    whoever_waits_in_a_closed_tunnel_is_told_why,
    a_tunnel_whose_handles_are_dropped_is_closed,
    a_tunnel_without_handles_lives_on_in_its_streams,
    a_silent_peer_is_noticed_within_the_idle_limit,
    large_bodies_pass_both_ways_at_once,
    chunks_arrive_without_losing_a_byte,
);

async fn both_sides_open_and_accept(kind: Kind) {
    let pair = Pair::new(kind).await;
    for (from, to) in [(&pair.dialer, &pair.listener), (&pair.listener, &pair.dialer)] {
        let mut opened = from.open().await.unwrap();
        opened.write_all(b"ping").await.unwrap();
        let mut accepted = to.accept().await.unwrap();
        assert_eq!(accepted.id(), opened.id());
        assert_eq!(read_exact(&mut accepted, 4).await, b"ping");
        accepted.write_all(b"pong").await.unwrap();
        assert_eq!(read_exact(&mut opened, 4).await, b"pong");
    }
    let (there, back) = (pair.dialer.traffic(), pair.listener.traffic());
    assert!(there.sent > 0 && there.received > 0 && back.sent > 0 && back.received > 0, "{there:?} {back:?}");
    match kind {
        Kind::Quic => {
            assert_eq!(pair.dialer.transport(), Transport::Quic);
            assert!(pair.dialer.remote_address().is_some() && pair.dialer.rtt().is_some());
        }
        Kind::Yamux => {
            assert_eq!(pair.dialer.transport(), Transport::Tls);
            // Pinged at the start, and answered before anything else.
            let rtt = pair.dialer.rtt().unwrap();
            assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(1), "{rtt:?}");
        }
    }
}

async fn a_stream_without_bytes_is_still_a_stream(kind: Kind) {
    let pair = Pair::new(kind).await;
    let mut opened = pair.listener.open().await.unwrap();
    opened.shutdown().await.unwrap();
    let mut accepted = pair.dialer.accept().await.unwrap();
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"");
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"");
}

async fn a_silent_stream_does_not_keep_others_from_being_accepted(kind: Kind) {
    let pair = Pair::new(kind).await;
    let mut silent = pair.listener.open().await.unwrap();
    silent.write_all(b"x").await.unwrap();
    let _silent = pair.dialer.accept().await.unwrap();
    round_trip(&pair.listener, &pair.dialer).await;
}

async fn a_thousand_requests_wait_for_slow_answers_at_once(kind: Kind) {
    let pair = Pair::new(kind).await;
    let asking = async {
        join_all((0..MAX_STREAMS).map(|number| {
            let tunnel = pair.listener.clone();
            async move {
                let mut stream = tunnel.open().await.unwrap();
                stream.write_all(&number.to_be_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                assert_eq!(read_all(&mut stream).await.unwrap(), number.to_be_bytes());
            }
        }))
        .await;
    };
    let answering = async {
        // No answer before every request is here: all of them are open at the same time.
        let mut waiting = Vec::new();
        for _ in 0..MAX_STREAMS {
            waiting.push(pair.dialer.accept().await.unwrap());
        }
        for mut stream in waiting {
            let question = read_all(&mut stream).await.unwrap();
            stream.write_all(&question).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    };
    tokio::join!(asking, answering);
    round_trip(&pair.listener, &pair.dialer).await;
}

async fn a_stalled_stream_holds_back_its_writer_and_nobody_else(kind: Kind) {
    let pair = Pair::new(kind).await;
    let mut stalled = pair.listener.open().await.unwrap();
    stalled.write_all(b"x").await.unwrap();
    let mut unread = pair.dialer.accept().await.unwrap();

    let written = Arc::new(AtomicUsize::new(1));
    let mut writing = JoinSet::new();
    let count = Arc::clone(&written);
    writing.spawn(async move {
        let body = vec![7; 16 * 1024];
        while count.load(Ordering::Relaxed) < 64 << 20 {
            stalled.write_all(&body).await.unwrap();
            count.fetch_add(body.len(), Ordering::Relaxed);
        }
        stalled.shutdown().await.unwrap();
        stalled
    });

    // It stalls: nothing more is written while many exchanges pass it by.
    let (mut before, mut quiet) = (0, 0);
    while quiet < 100 {
        round_trip(&pair.listener, &pair.dialer).await;
        let now = written.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    assert!(before < 24 << 20, "{before} bytes are waiting for a reader");

    // And it goes on where it stood once somebody reads.
    assert_eq!(read_all(&mut unread).await.unwrap().len(), written.load(Ordering::Relaxed));
    writing.join_next().await.unwrap().unwrap();
}

async fn a_crowd_of_stalled_streams_is_in_nobodys_way(kind: Kind) {
    let pair = Pair::new(kind).await;
    for relay_reads in [true, false] {
        // A request, and which end of it is the one that reads a large body.
        let exchange = async || {
            let (opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"head").await;
            read_exact(&mut accepted, 4).await;
            if relay_reads { (opened, accepted) } else { (accepted, opened) }
        };
        let (mut writing, mut stalled, written) = (JoinSet::new(), Vec::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..24 {
            let (mut reads, mut writes) = exchange().await;
            let count = Arc::clone(&written);
            writing.spawn(async move {
                while let Ok(length) = writes.write(&[0; 16 * 1024]).await {
                    count.fetch_add(length, Ordering::Relaxed);
                }
            });
            // It has begun, and is taken no further.
            read_exact(&mut reads, 1).await;
            stalled.push(reads);
        }
        full(&written).await;
        let held = written.load(Ordering::Relaxed);
        assert!(held < 96 << 20, "{held} bytes are waiting for readers");
        for _ in 0..20 {
            let (mut reads, mut writes) = exchange().await;
            let body = vec![7; 500 * 1024];
            let (wrote, read) = tokio::join!(writes.write_all(&body), read_exact(&mut reads, body.len()));
            wrote.unwrap();
            assert!(read == body);
        }
    }
}

async fn each_direction_ends_on_its_own(kind: Kind) {
    let pair = Pair::new(kind).await;

    // The opener ends first and still gets its answer.
    let (mut opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"request").await;
    opened.shutdown().await.unwrap();
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"request");
    round_trip(&pair.listener, &pair.dialer).await;
    accepted.write_all(b"answer").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"answer");

    // The accepter ends first and still gets the rest.
    let (mut opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"first").await;
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"");
    opened.write_all(b" and last").await.unwrap();
    opened.shutdown().await.unwrap();
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"first and last");

    // An end is an end, however often it is asked for, and nothing follows it.
    opened.shutdown().await.unwrap();
    let error = opened.write_all(b"more").await.unwrap_err();
    assert_eq!(stream_error(&error), StreamError::Finished);
}

async fn a_message_that_was_cut_never_looks_whole(kind: Kind) {
    let pair = Pair::new(kind).await;
    for (from, to) in [(&pair.dialer, &pair.listener), (&pair.listener, &pair.dialer)] {
        // Dropped by the opener.
        let (opened, mut accepted) = stream(from, to, b"half a mess").await;
        drop(opened);
        assert_eq!(stream_error(&read_all(&mut accepted).await.unwrap_err()), StreamError::Reset);

        // Dropped by the accepter.
        let (mut opened, mut accepted) = stream(from, to, b"request").await;
        accepted.write_all(b"half an ans").await.unwrap();
        drop(accepted);
        assert_eq!(stream_error(&read_all(&mut opened).await.unwrap_err()), StreamError::Reset);

        // Dropped by the accepter after it had the whole request, which is how an app dies.
        let (mut opened, mut accepted) = stream(from, to, b"request").await;
        opened.shutdown().await.unwrap();
        assert_eq!(read_all(&mut accepted).await.unwrap(), b"request");
        accepted.write_all(b"half an ans").await.unwrap();
        drop(accepted);
        assert_eq!(stream_error(&read_all(&mut opened).await.unwrap_err()), StreamError::Reset);
    }
}

async fn a_cut_is_seen_while_the_other_direction_goes_on(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"half").await;
    let (mut reading, writing) = opened.split();
    drop(writing);
    assert_eq!(stream_error(&read_all(&mut accepted).await.unwrap_err()), StreamError::Reset);
    accepted.write_all(b"still here").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut reading).await.unwrap(), b"still here");
}

async fn a_writer_learns_that_nobody_reads(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (mut opened, accepted) = stream(&pair.listener, &pair.dialer, b"upload").await;
    let (reading, mut answering) = accepted.split();
    drop(reading);
    let error = write_until_it_fails(&mut opened).await;
    assert_eq!(stream_error(&error), StreamError::Stopped);
    // The answer is not harmed by it.
    answering.write_all(b"too large").await.unwrap();
    answering.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"too large");
}

async fn a_writer_learns_that_its_answered_request_is_dropped(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (mut opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"upload").await;
    accepted.write_all(b"no").await.unwrap();
    accepted.shutdown().await.unwrap();
    drop(accepted);
    let error = write_until_it_fails(&mut opened).await;
    assert_eq!(stream_error(&error), StreamError::Stopped);
    assert_eq!(read_all(&mut opened).await.unwrap(), b"no");
}

async fn a_writer_in_a_full_tunnel_learns_that_nobody_reads(kind: Kind) {
    let pair = Pair::new(kind).await;
    // Downloads that nobody reads, until all of them together fill what the tunnel holds. Each counts what it has
    // written, and ends with the error that it met.
    let (mut writing, mut unread, written) = (JoinSet::new(), Vec::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..30 {
        let (opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"download").await;
        let count = Arc::clone(&written);
        unread.push(opened);
        writing.spawn(async move {
            loop {
                match accepted.write(&[0; 16 * 1024]).await {
                    Ok(length) => count.fetch_add(length, Ordering::Relaxed),
                    Err(error) => return (number, error),
                };
            }
        });
    }
    full(&written).await;

    // Newest first: quinn gives room to the oldest.
    for number in (20..30).rev() {
        drop(unread.pop());
        let ended = timeout(Duration::from_secs(1), writing.join_next()).await;
        let (ended, error) = ended.expect("a writer hears nothing of the stop").unwrap().unwrap();
        assert_eq!((ended, stream_error(&error)), (number, StreamError::Stopped));
    }
}

async fn a_stream_that_only_just_ended_is_whole(kind: Kind) {
    let pair = Pair::new(kind).await;
    for _ in 0..200 {
        let mut opened = pair.listener.open().await.unwrap();
        opened.write_all(b"whole").await.unwrap();
        opened.shutdown().await.unwrap();
        let (reading, writing) = opened.split();
        drop(writing);
        let mut accepted = pair.dialer.accept().await.unwrap();
        assert_eq!(read_all(&mut accepted).await.unwrap(), b"whole");
        drop(reading);
    }
}

async fn opening_waits_at_the_limit_and_goes_on_when_a_stream_ends(kind: Kind) {
    let pair = Pair::new(kind).await;
    // Toward a relay both transports let a client have 16 streams.
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(stream(&pair.dialer, &pair.listener, b"x").await);
    }
    let mut opening = pin!(pair.dialer.open());
    for _ in 0..50 {
        round_trip(&pair.listener, &pair.dialer).await;
        assert!(futures_util::poll!(&mut opening).is_pending(), "the limit does not hold");
    }
    // quinn tells the peer of free places only when more than an eighth of them is free.
    held.truncate(13);
    let mut opened = opening.await.unwrap();
    opened.write_all(b"after all").await.unwrap();
    let mut accepted = pair.listener.accept().await.unwrap();
    assert_eq!(read_exact(&mut accepted, 9).await, b"after all");
    // Those that were there before are unharmed.
    let (opened, accepted) = &mut held[0];
    opened.write_all(b"y").await.unwrap();
    assert_eq!(read_exact(accepted, 2).await, b"xy");
}

async fn a_reason_reaches_the_peer_from_either_side(kind: Kind) {
    for dialer_closes in [true, false] {
        let pair = Pair::new(kind).await;
        let (_opened, _accepted) = stream(&pair.listener, &pair.dialer, b"in the middle of something").await;
        let (closing, peer) =
            if dialer_closes { (&pair.dialer, &pair.listener) } else { (&pair.listener, &pair.dialer) };
        let reason = CloseReason::new(CloseCode::Superseded, "a newer session of yours took over");
        closing.close(&reason);
        closing.close(&CloseCode::Internal.into());
        assert_eq!(closing.closed().await, Closed::ByUs(reason.clone()));
        assert_eq!(peer.closed().await, Closed::ByPeer(reason));
    }
}

async fn a_reason_reaches_a_peer_that_said_nothing_yet(kind: Kind) {
    let pair = Pair::new(kind).await;
    let reason = CloseReason::new(CloseCode::Denied, "rule 7");
    pair.listener.close(&reason);
    assert_eq!(pair.dialer.closed().await, Closed::ByPeer(reason));
}

async fn whoever_waits_in_a_closed_tunnel_is_told_why(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (mut opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"").await;
    let reason = CloseReason::new(CloseCode::Drain, "rolling update");
    let (by_us, by_peer) = (Closed::ByUs(reason.clone()), Closed::ByPeer(reason.clone()));
    let (_, accepting, ours, theirs) = tokio::join!(
        async { pair.listener.close(&reason) },
        pair.dialer.accept(),
        read_all(&mut opened),
        read_all(&mut accepted),
    );
    assert_eq!(accepting.unwrap_err(), by_peer);
    assert_eq!(stream_error(&ours.unwrap_err()), StreamError::Tunnel(by_us.clone()));
    assert_eq!(stream_error(&theirs.unwrap_err()), StreamError::Tunnel(by_peer.clone()));
    let error = write_until_it_fails(&mut opened).await;
    assert_eq!(stream_error(&error), StreamError::Tunnel(by_us.clone()));
    assert_eq!(pair.listener.open().await.unwrap_err(), by_us);
    assert_eq!(pair.dialer.open().await.unwrap_err(), by_peer);
}

async fn a_tunnel_whose_handles_are_dropped_is_closed(kind: Kind) {
    let pair = Pair::new(kind).await;
    let Pair { dialer, listener, .. } = &pair;
    round_trip(listener, dialer).await;
    let mut pair = pair;
    let clone = pair.dialer.clone();
    pair.dialer = pair.listener.clone();
    drop(clone);
    assert_eq!(pair.listener.closed().await, Closed::ByPeer(CloseCode::Dropped.into()));
}

async fn a_tunnel_without_handles_lives_on_in_its_streams(kind: Kind) {
    let mut pair = Pair::new(kind).await;
    let (mut opened, mut accepted) = stream(&pair.listener, &pair.dialer, b"x").await;
    pair.dialer = pair.listener.clone();
    accepted.write_all(b"the last answer").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"the last answer");
    drop(accepted);
    assert_eq!(pair.listener.closed().await, Closed::ByPeer(CloseCode::Dropped.into()));
}

async fn a_silent_peer_is_noticed_within_the_idle_limit(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (mut opened, _accepted) = stream(&pair.listener, &pair.dialer, b"x").await;
    pair.link.cut.store(true, Ordering::Relaxed);
    let lost = Closed::Lost(Lost::Silent);
    // With one of its keep-alives, and two seconds for a busy machine.
    let limit = IDLE_LIMIT + Duration::from_secs(5);
    let (ours, theirs, read) = timeout(limit, async {
        tokio::join!(pair.listener.closed(), pair.dialer.closed(), read_all(&mut opened))
    })
    .await
    .expect("the limit has passed");
    assert_eq!((ours, theirs), (lost.clone(), lost.clone()));
    assert_eq!(stream_error(&read.unwrap_err()), StreamError::Tunnel(lost));
}

async fn large_bodies_pass_both_ways_at_once(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (opened, accepted) = stream(&pair.listener, &pair.dialer, b"").await;
    let body: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let send = |stream: Stream| {
        let body = &body;
        async move {
            let (mut reading, mut writing) = stream.split();
            let (sent, received) = tokio::join!(
                async {
                    writing.write_all(body).await?;
                    writing.shutdown().await
                },
                read_all(&mut reading)
            );
            sent.unwrap();
            assert!(received.unwrap() == *body, "a byte was lost or changed");
        }
    };
    tokio::join!(send(opened), send(accepted));
}

async fn chunks_arrive_without_losing_a_byte(kind: Kind) {
    let pair = Pair::new(kind).await;
    let (mut opened, accepted) = stream(&pair.listener, &pair.dialer, b"").await;
    let body = vec![42; 300_000];
    let (mut reading, _answering) = accepted.split();
    let receive = async {
        let mut received = read_exact(&mut reading, 10).await;
        while let Some(chunk) = reading.chunk().await.unwrap() {
            assert!(!chunk.is_empty());
            received.extend_from_slice(&chunk);
        }
        assert!(reading.chunk().await.unwrap().is_none(), "an end stays an end");
        received
    };
    let (_, received) = tokio::join!(
        async {
            opened.write_all(&body).await.unwrap();
            opened.shutdown().await.unwrap();
        },
        receive
    );
    assert!(received == body);
}

// --- yamux only: what reaches it from a socket, and how often it touches one

#[tokio::test]
async fn garbage_ends_a_yamux_tunnel_and_nothing_else() {
    for input in garbage() {
        for side in [Side::Dialer, Side::Listener] {
            patiently(receives_garbage(side, &input)).await;
        }
    }
}

async fn receives_garbage(side: Side, input: &[u8]) {
    // Large enough for whatever is said in return.
    let (mut attacker, victim) = duplex(1 << 20);
    let (tunnel, driver) = Tunnel::yamux(victim, side, Limits::of(side));
    attacker.write_all(input).await.unwrap();
    attacker.shutdown().await.unwrap();
    let accepting = async { while tunnel.accept().await.is_ok() {} };
    let (closed, ()) = tokio::join!(driver, accepting);
    let told = Closed::ByPeer(CloseCode::Dropped.into());
    assert!(matches!(closed, Closed::Lost(_)) || closed == told, "{closed:?}");
    assert_eq!(tunnel.closed().await, closed);
}

/// What no tunnel sends, from a browser's request to what broke yamux before.
fn garbage() -> Vec<Vec<u8>> {
    const SYN: u16 = 1;
    let frame = |kind: u8, flags: u16, stream: u32, length: u32, body: &[u8]| {
        let mut frame = vec![0, kind];
        frame.extend_from_slice(&flags.to_be_bytes());
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(body);
        frame
    };
    let signals = frame(0, SYN, 1, 0, b"");
    let after_signals = |rest: &[Vec<u8>]| [signals.clone(), rest.concat()].concat();
    let over_window = vec![0; 262_146];
    let mut inputs = vec![
        b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        // A length that nobody should allocate.
        frame(0, SYN, 1, u32::MAX, b""),
        // The first frame of a stream is larger than its window, and so is a later one.
        after_signals(&[frame(0, SYN, 3, 262_146, &over_window)]),
        after_signals(&[frame(0, SYN, 3, 0, b""), frame(0, 0, 3, 262_146, &over_window)]),
        // Windows that overflow.
        after_signals(&[frame(1, SYN, 3, u32::MAX, b""), frame(1, 0, 3, u32::MAX, b"")]),
        // Streams of the wrong side, twice the same, and before the signals.
        after_signals(&[frame(0, SYN, 2, 0, b"")]),
        after_signals(&[frame(0, SYN, 3, 0, b""), frame(0, SYN, 3, 0, b"")]),
        frame(0, SYN, 3, 1, b"x"),
        // An answer to a ping that was never sent, and goodbyes.
        frame(2, 2, 0, 77, b""),
        frame(3, 0, 0, 0, b""),
        frame(3, 0, 0, 1, b""),
        // Signals: malformed, ended, reset.
        after_signals(&[frame(0, 0, 1, 3, b"\x01\x01\x00")]),
        after_signals(&[frame(0, 4, 1, 0, b"")]),
        after_signals(&[frame(0, 8, 1, 0, b"")]),
        // Frames for streams that do not exist.
        after_signals(&[frame(0, 4, 99, 1, b"x"), frame(1, 8, 98, 0, b""), frame(0, 2, 97, 0, b"")]),
        // Opened, ended and reset at once, over and over.
        after_signals(&(1..200).map(|id| frame(0, 5, 2 * id + 1, 0, b"")).collect::<Vec<_>>()),
        after_signals(&(1..200).map(|id| frame(0, 9, 2 * id + 1, 0, b"")).collect::<Vec<_>>()),
    ];
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    for length in 0..200 {
        let random = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Close enough to frames to get past the first check.
            u8::try_from(seed % 5).unwrap_or_default()
        });
        inputs.push(after_signals(&[random.take(length).collect()]));
    }
    inputs
}

#[tokio::test]
async fn a_violation_ends_the_tunnel_although_the_peer_goes_on() {
    patiently(async {
        let (mut attacker, victim) = duplex(1 << 20);
        let (tunnel, driver) = Tunnel::yamux(victim, Side::Listener, Limits::of(Side::Listener));
        // The signals, then a stream of the wrong side; and the socket stays open.
        attacker.write_all(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        attacker.write_all(&[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]).await.unwrap();
        assert!(matches!(driver.await, Closed::Lost(Lost::Protocol(_))));
        assert!(matches!(tunnel.open().await, Err(Closed::Lost(Lost::Protocol(_)))));
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_reset_and_the_others_live() {
    patiently(async {
        let greedy = Limits { open: 60, accept: 60 };
        let (mut tasks, dialer, listener) = yamux_pair(greedy, Limits { open: 60, accept: 10 });
        let mut opened = Vec::new();
        for _ in 0..60 {
            let mut stream = dialer.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            opened.push(stream);
        }
        // Ten wait to be accepted, the other fifty are refused.
        let rest = opened.split_off(10);
        for mut refused in rest {
            let error = read_all(&mut refused).await.unwrap_err();
            assert_eq!(stream_error(&error), StreamError::Reset);
        }
        for stream in &mut opened {
            let mut accepted = listener.accept().await.unwrap();
            accepted.write_all(b"served").await.unwrap();
            accepted.shutdown().await.unwrap();
            assert_eq!(read_all(stream).await.unwrap(), b"served");
        }
        round_trip(&dialer, &listener).await;
        assert!(tasks.try_join_next().is_none(), "both drivers live");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_yamux_tunnel_stays_and_a_stopped_peer_is_noticed() {
    let (here, there) = duplex(64 * 1024);
    let (dialer, ours) = Tunnel::yamux(here, Side::Dialer, Limits::of(Side::Dialer));
    let (listener, theirs) = Tunnel::yamux(there, Side::Listener, Limits::of(Side::Listener));
    let mut ours = pin!(ours);
    let mut theirs = pin!(theirs);
    // The clock is simulated: an hour passes at once.
    tokio::select! {
        over = &mut ours => panic!("{over}"),
        over = &mut theirs => panic!("{over}"),
        () = tokio::time::sleep(Duration::from_secs(3600)) => {}
    }
    tokio::select! {
        over = &mut ours => panic!("{over}"),
        over = &mut theirs => panic!("{over}"),
        () = round_trip(&dialer, &listener) => {}
    }
    // From now on nobody drives the listener, as if its process was stopped.
    let stopped = tokio::time::Instant::now();
    assert_eq!(ours.await, Closed::Lost(Lost::Silent));
    assert!(stopped.elapsed() >= IDLE_LIMIT - Duration::from_secs(1), "{:?}", stopped.elapsed());
    assert!(stopped.elapsed() <= IDLE_LIMIT + Duration::from_secs(1), "{:?}", stopped.elapsed());
    drop(dialer);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_cannot_hold_up_a_close() {
    let (here, _there) = duplex(16);
    let (dialer, driver) = Tunnel::yamux(here, Side::Dialer, Limits::of(Side::Dialer));
    let reason = CloseReason::from(CloseCode::Shutdown);
    dialer.close(&reason);
    let asked = tokio::time::Instant::now();
    assert_eq!(driver.await, Closed::ByUs(reason));
    assert!(asked.elapsed() <= Duration::from_secs(1));
}

#[tokio::test]
async fn a_yamux_tunnel_ends_with_its_driver() {
    patiently(async {
        let (here, _there) = duplex(1024);
        let (dialer, driver) = Tunnel::yamux(here, Side::Dialer, Limits::of(Side::Dialer));
        let (closed, opened, ()) = tokio::join!(dialer.closed(), dialer.open(), async { drop(driver) });
        assert_eq!(closed, Closed::Lost(Lost::Abandoned));
        assert_eq!(opened.unwrap_err(), closed);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_just_ends_is_not_a_reason() {
    patiently(async {
        let (here, there) = duplex(1024);
        let (dialer, driver) = Tunnel::yamux(here, Side::Dialer, Limits::of(Side::Dialer));
        drop(there);
        let closed = driver.await;
        assert!(matches!(closed, Closed::Lost(Lost::Ended | Lost::Io(_))), "{closed:?}");
        assert_eq!(dialer.closed().await, closed);
    })
    .await;
}

#[tokio::test]
async fn a_small_request_on_yamux_is_one_write() {
    patiently(async {
        let (here, there) = duplex(64 * 1024);
        let writes = Arc::new(AtomicUsize::new(0));
        let here = Counted { io: here, writes: Arc::clone(&writes) };
        let (dialer, ours) = Tunnel::yamux(here, Side::Dialer, Limits::of(Side::Dialer));
        let (listener, theirs) = Tunnel::yamux(there, Side::Listener, Limits::of(Side::Listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(ours);
        tasks.spawn(theirs);
        round_trip(&dialer, &listener).await;

        let before = writes.load(Ordering::Relaxed);
        let mut opened = dialer.open().await.unwrap();
        opened.write_all(b"head").await.unwrap();
        opened.write_all(b"body and end").await.unwrap();
        opened.shutdown().await.unwrap();
        let mut accepted = listener.accept().await.unwrap();
        assert_eq!(read_all(&mut accepted).await.unwrap(), b"headbody and end");
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
    })
    .await;
}

/// Counts the writes that reach the socket.
struct Counted {
    io: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// --- what the tests stand on

async fn patiently(test: impl Future<Output = ()>) {
    timeout(PATIENCE, test).await.expect("the test hangs");
}

/// A stream from one side to the other, with `first` sent on it (and something to open it, if that is empty).
async fn stream(from: &Tunnel, to: &Tunnel, first: &[u8]) -> (Stream, Stream) {
    let mut opened = from.open().await.unwrap();
    let sent = if first.is_empty() { b"-" } else { first };
    opened.write_all(sent).await.unwrap();
    let mut accepted = to.accept().await.unwrap();
    assert_eq!(accepted.id(), opened.id());
    if first.is_empty() {
        assert_eq!(read_exact(&mut accepted, 1).await, b"-");
    }
    (opened, accepted)
}

async fn round_trip(from: &Tunnel, to: &Tunnel) {
    let (mut opened, mut accepted) = stream(from, to, b"question").await;
    opened.shutdown().await.unwrap();
    assert_eq!(read_all(&mut accepted).await.unwrap(), b"question");
    accepted.write_all(b"answer").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(read_all(&mut opened).await.unwrap(), b"answer");
}

async fn read_exact(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Waits until writers that count what they write have not written anything for a while.
async fn full(written: &AtomicUsize) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = written.load(Ordering::Relaxed);
        quiet = if now == before && now > 0 { quiet + 1 } else { 0 };
        before = now;
    }
}

async fn write_until_it_fails(stream: &mut (impl AsyncWrite + Unpin)) -> io::Error {
    loop {
        if let Err(error) = stream.write_all(&[0; 16 * 1024]).await {
            return error;
        }
    }
}

fn stream_error(error: &io::Error) -> StreamError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>());
    inner.unwrap_or_else(|| panic!("not an error of a stream: {error:?}")).clone()
}

#[derive(Clone, Copy)]
enum Kind {
    Quic,
    Yamux,
}

struct Pair {
    dialer: Tunnel,
    listener: Tunnel,
    link: Link,
    _tasks: JoinSet<()>,
    _endpoints: Vec<quinn::Endpoint>,
}

/// What lies between the two sides; it forwards until it is cut, and then is silent but keeps its sockets.
#[derive(Clone, Default)]
struct Link {
    cut: Arc<AtomicBool>,
}

impl Pair {
    async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Quic => Self::quic().await,
            Kind::Yamux => Self::yamux().await,
        }
    }

    async fn quic() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).unwrap();
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(Arc::new(quic_transport(Side::Listener)));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::new(quic_transport(Side::Dialer)));

        let relay = quinn::Endpoint::server(server, loopback()).unwrap();
        let laptop = quinn::Endpoint::client(loopback()).unwrap();
        let (link, mut tasks) = (Link::default(), JoinSet::new());
        let address = link.udp(relay.local_addr().unwrap(), &mut tasks).await;
        let connecting = laptop.connect_with(client, address, "relay.test").unwrap();
        let (dialed, accepted) = tokio::join!(async { connecting.await.unwrap() }, async {
            relay.accept().await.unwrap().await.unwrap()
        });
        Self {
            dialer: Tunnel::quic(dialed),
            listener: Tunnel::quic(accepted),
            link,
            _tasks: tasks,
            _endpoints: vec![relay, laptop],
        }
    }

    async fn yamux() -> Self {
        let (link, mut tasks) = (Link::default(), JoinSet::new());
        let relay = TcpListener::bind(loopback()).await.unwrap();
        let address = link.tcp(relay.local_addr().unwrap(), &mut tasks).await;
        let (dialed, accepted) = tokio::join!(TcpStream::connect(address), relay.accept());
        let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap().0);
        dialed.set_nodelay(true).unwrap();
        accepted.set_nodelay(true).unwrap();
        let (dialer, ours) = Tunnel::yamux(dialed, Side::Dialer, Limits::of(Side::Dialer));
        let (listener, theirs) = Tunnel::yamux(accepted, Side::Listener, Limits::of(Side::Listener));
        drive(&mut tasks, ours);
        drive(&mut tasks, theirs);
        Self { dialer, listener, link, _tasks: tasks, _endpoints: Vec::new() }
    }
}

impl Link {
    async fn udp(&self, relay: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
        let near = UdpSocket::bind(loopback()).await.unwrap();
        let far = UdpSocket::bind(loopback()).await.unwrap();
        far.connect(relay).await.unwrap();
        let address = near.local_addr().unwrap();
        let cut = Arc::clone(&self.cut);
        tasks.spawn(async move {
            let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
            let mut laptop = address;
            loop {
                tokio::select! {
                    received = near.recv_from(&mut up) => {
                        let (length, from) = received.unwrap();
                        laptop = from;
                        if !cut.load(Ordering::Relaxed) {
                            let _ = far.send(&up[..length]).await;
                        }
                    }
                    received = far.recv(&mut down) => {
                        let length = received.unwrap();
                        if !cut.load(Ordering::Relaxed) {
                            let _ = near.send_to(&down[..length], laptop).await;
                        }
                    }
                }
            }
        });
        address
    }

    async fn tcp(&self, relay: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::clone(&self.cut);
        tasks.spawn(async move {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(relay).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(forward(from_near, to_far, &cut), forward(from_far, to_near, &cut));
        });
        address
    }
}

async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, cut: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    loop {
        match from.read(&mut buffer).await {
            Ok(length) if length > 0 => {
                if !cut.load(Ordering::Relaxed) && to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            _ if cut.load(Ordering::Relaxed) => std::future::pending().await,
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}

fn yamux_pair(dialer: Limits, listener: Limits) -> (JoinSet<()>, Tunnel, Tunnel) {
    let (here, there) = duplex(64 * 1024);
    let (dialer, ours) = Tunnel::yamux(here, Side::Dialer, dialer);
    let (listener, theirs) = Tunnel::yamux(there, Side::Listener, listener);
    let mut tasks = JoinSet::new();
    drive(&mut tasks, ours);
    drive(&mut tasks, theirs);
    (tasks, dialer, listener)
}

fn drive(tasks: &mut JoinSet<()>, driver: Driver) {
    tasks.spawn(async move {
        driver.await;
    });
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
