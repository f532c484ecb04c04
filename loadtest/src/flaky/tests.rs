//! What a client and a relay see of each fault, with an echo in the relay's place.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// Longer than anything that comes takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it takes to believe that nothing comes.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends back what it gets, and in front of each datagram says which port it came from.
struct Echo {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

async fn echo() -> Echo {
    let (listener, socket) = one_port().await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    tasks.spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [&from.port().to_be_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Echo { address, _tasks: tasks }
}

async fn udp(flaky: &Flaky) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(flaky.address()).await.unwrap();
    socket
}

/// The port that a datagram came to the relay from, or None if it was not answered.
async fn asked(socket: &UdpSocket, patience: Duration) -> Option<u16> {
    socket.send(b"hello").await.unwrap();
    let mut buffer = [0; 2048];
    let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?.unwrap();
    assert_eq!(&buffer[2..length], b"hello");
    Some(u16::from_be_bytes([buffer[0], buffer[1]]))
}

async fn exchanged(stream: &mut TcpStream, patience: Duration) -> Option<()> {
    stream.write_all(b"hello").await.unwrap();
    read(stream, patience).await
}

async fn read(stream: &mut TcpStream, patience: Duration) -> Option<()> {
    let mut buffer = [0; 5];
    timeout(patience, stream.read_exact(&mut buffer)).await.ok()?.unwrap();
    assert_eq!(&buffer, b"hello");
    Some(())
}

#[tokio::test]
async fn what_is_swallowed_one_way_is_not_answered_until_it_heals() {
    let echo = echo().await;
    for way in [Way::Up, Way::Down] {
        let flaky = Flaky::to(echo.address).await.unwrap();
        let (socket, mut stream) = (udp(&flaky).await, TcpStream::connect(flaky.address()).await.unwrap());
        assert!(asked(&socket, PATIENCE).await.is_some());
        exchanged(&mut stream, PATIENCE).await.unwrap();
        flaky.blackhole(Protocol::Udp, way);
        assert_eq!(asked(&socket, SILENCE).await, None, "{way:?}");
        exchanged(&mut stream, PATIENCE).await.expect("TCP passes where only UDP is blocked");
        flaky.blackhole(Protocol::Tcp, way);
        assert_eq!(exchanged(&mut stream, SILENCE).await, None, "{way:?}");
        flaky.heal();
        read(&mut stream, PATIENCE).await.expect("what TCP has sent arrives in the end");
        assert!(asked(&socket, PATIENCE).await.is_some());
    }
}

#[tokio::test]
async fn nothing_is_lost_in_a_pause() {
    let echo = echo().await;
    let flaky = Flaky::to(echo.address).await.unwrap();
    let (socket, mut stream) = (udp(&flaky).await, TcpStream::connect(flaky.address()).await.unwrap());
    flaky.pause();
    assert_eq!(asked(&socket, SILENCE).await, None);
    assert_eq!(exchanged(&mut stream, SILENCE).await, None);
    flaky.heal();
    read(&mut stream, PATIENCE).await.unwrap();
    let mut buffer = [0; 2048];
    assert_eq!(timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn a_round_trip_takes_both_delays() {
    let echo = echo().await;
    let flaky = Flaky::to(echo.address).await.unwrap();
    flaky.delay(Duration::from_millis(40));
    let (socket, mut stream) = (udp(&flaky).await, TcpStream::connect(flaky.address()).await.unwrap());
    exchanged(&mut stream, PATIENCE).await.unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        asked(&socket, PATIENCE).await.unwrap();
        let over_udp = begun.elapsed();
        let begun = Instant::now();
        exchanged(&mut stream, PATIENCE).await.unwrap();
        for took in [over_udp, begun.elapsed()] {
            assert!(took >= Duration::from_millis(80) && took < PATIENCE, "{took:?}");
        }
    }
}

#[tokio::test]
async fn the_share_that_is_lost_is_the_one_that_was_asked_for() {
    let echo = echo().await;
    let flaky = Flaky::to(echo.address).await.unwrap();
    flaky.lose(0.2);
    let socket = udp(&flaky).await;
    let (sent, mut came, mut buffer) = (4000, 0, [0; 2048]);
    for batch in 0..sent / 50 {
        for _ in 0..50 {
            socket.send(b"hello").await.unwrap();
        }
        // 0.8 x 0.8 of them come back; a batch at a time, so that none is lost for want of room.
        while timeout(Duration::from_millis(20), socket.recv(&mut buffer)).await.is_ok() {
            came += 1;
        }
        assert!(came <= (batch + 1) * 50);
    }
    let share = f64::from(came) / f64::from(sent);
    assert!((share - 0.64).abs() < 0.06, "{share}");
}

#[tokio::test]
async fn a_new_source_port_is_all_that_a_datagram_notices() {
    let echo = echo().await;
    let flaky = Flaky::to(echo.address).await.unwrap();
    let socket = udp(&flaky).await;
    let before = asked(&socket, PATIENCE).await.unwrap();
    assert_eq!(asked(&socket, PATIENCE).await.unwrap(), before);
    let mut stream = TcpStream::connect(flaky.address()).await.unwrap();
    exchanged(&mut stream, PATIENCE).await.unwrap();
    flaky.new_source_port();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the client is told");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_ne!(asked(&socket, PATIENCE).await.unwrap(), before);
}

#[tokio::test]
async fn a_reset_reaches_both_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let flaky = Flaky::to(listener.local_addr().unwrap()).await.unwrap();
    let mut stream = TcpStream::connect(flaky.address()).await.unwrap();
    let (mut relay, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    flaky.reset();
    for end in [&mut stream, &mut relay] {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, end.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_is_under_way_stays_with_its_relay_and_what_begins_goes_to_the_next() {
    let (old, new) = (echo().await, echo().await);
    let flaky = Flaky::to(old.address).await.unwrap();
    let (early, mut stream) = (udp(&flaky).await, TcpStream::connect(flaky.address()).await.unwrap());
    asked(&early, PATIENCE).await.unwrap();
    exchanged(&mut stream, PATIENCE).await.unwrap();
    flaky.lead_to(new.address);
    drop(old);
    assert_eq!(asked(&early, SILENCE).await, None);
    asked(&udp(&flaky).await, PATIENCE).await.unwrap();
    let mut later = TcpStream::connect(flaky.address()).await.unwrap();
    exchanged(&mut later, PATIENCE).await.unwrap();
}
