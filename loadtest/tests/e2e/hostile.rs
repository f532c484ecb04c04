//! Input that no well-meaning peer sends, and who notices it: nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_client::dial::Line;
use culvert_loadtest::caller::{self, Caller};
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::world::{World, intercept, leave};
use culvert_protocol::hello::{
    FromClient, FromRelay, Hello, InstanceId, Messages, RejectCode, VERSIONS, write_message,
};
use culvert_protocol::tunnel::{RecvHalf, SendHalf};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::TRANSPORTS;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_tunnel_port_is_noticed_by_nobody_else() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let tunnel = world.addresses().tunnel;
        let bystander = Bystander::start(world.door().unwrap());

        let random: Vec<u8> =
            (0..1024_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut record = vec![22, 3, 1, 0xff, 0xff];
        record.extend(&random);
        let mut hello = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        hello.extend(&random[..30]);
        // Cut short, and then nothing more.
        let mut silent = Vec::new();
        for beginning in [&hello[..], b""] {
            let mut caller = Caller::connect(tunnel).await.unwrap();
            caller.send(beginning).await.unwrap();
            silent.push(caller);
        }
        for garbage in [
            &random[..],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
            &record,
        ] {
            let mut caller = Caller::connect(tunnel).await.unwrap();
            caller.send(garbage).await.unwrap();
            let said =
                timeout(Duration::from_secs(2), caller.rest()).await.expect("closed within 2 s").unwrap();
            // HTTP is an ingress' or a browser's, which are told what this is.
            let told = said.starts_with(b"HTTP/1.1 426 ") && garbage.starts_with(b"GET ");
            assert!(told || said.len() < 64, "nothing but an alert: {}", said.escape_ascii());
        }
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        for length in [1, 20, 1200, 1452] {
            for first in [0x00, 0x40, 0xc0, 0xff] {
                let mut datagram = random[..length].to_vec();
                datagram[0] = first;
                socket.send_to(&datagram, tunnel).await.unwrap();
            }
        }
        // Closed all the same, when the handshake's time is over.
        for caller in &mut silent {
            timeout(Duration::from_secs(8), caller.rest()).await.expect("closed within 8 s").unwrap();
        }
        bystander.was_served().await;
        assert!(session.now().is_some());
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_a_control_stream_ends_that_tunnel_and_no_other() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let mallory = world.developer("mallory").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let bystander = Bystander::start(world.door().unwrap());

        let long = [&[0, 1, 0, 0][..], &[b'{'; 65536]].concat();
        for first in [
            &b"\xff\xff\xff\xff{}"[..],
            b"\x00\x00\x00\x02[]",
            b"\x00\x00\x00\x04\xff\xfe\xfd\xfc",
            b"\0\0\0\0",
            &long,
        ] {
            let line = mallory.dial(transport).await.unwrap();
            let (read, mut write) = line.tunnel.open().await.unwrap().split();
            // The relay may close while we are still sending.
            let _ = write.write_all(first).await;
            timeout(PATIENCE, line.tunnel.closed()).await.expect("a closed tunnel");
            drop((read, write));
        }
        // And the same from somebody who has been welcomed.
        let mut session_of_mallory =
            Spoken::greet(mallory.dial(transport).await.unwrap(), VERSIONS.to_vec()).await;
        assert!(matches!(session_of_mallory.hear().await, FromRelay::Welcome(_)));
        let _ = session_of_mallory.write.write_all(b"\xff\xff\xff\xffgarbage").await;
        timeout(PATIENCE, session_of_mallory.line.tunnel.closed()).await.expect("a closed tunnel");
        bystander.was_served().await;
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developer_who_answers_with_garbage_harms_only_their_own_requests() {
    for transport in TRANSPORTS {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), Origin::named("app").await.unwrap());
        let world = World::before(&upstream.url()).await.unwrap();
        let alice = world.developer("alice").await.unwrap();
        let mallory = world.developer("mallory").await.unwrap();
        let session = alice.intercept("x-user=alice", &app.url(), transport).await.unwrap();
        let bystander = Bystander::start(world.door().unwrap());

        let mut spoken = Spoken::greet(mallory.dial(transport).await.unwrap(), VERSIONS.to_vec()).await;
        assert!(matches!(spoken.hear().await, FromRelay::Welcome(_)));
        let claim = Box::new(intercept("x-user=mallory").unwrap());
        spoken.say(&FromClient::Announce { claim: 1, intercept: claim, stamp: None }).await;
        assert!(matches!(spoken.hear().await, FromRelay::Accepted { claim: 1, .. }));
        for answer in [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"\x01", b""]
        {
            let door = world.door().unwrap();
            let asking = async {
                let mut caller = Caller::connect(door).await?;
                caller.exchange(caller::request("/", &["x-user: mallory"])).await
            };
            let answering = async {
                let (read, mut write) = spoken.line.tunnel.accept().await.unwrap().split();
                // It may be reset meanwhile.
                let _ = write.write_all(answer).await;
                let _ = write.shutdown().await;
                read
            };
            let (answer, _read) = tokio::join!(asking, answering);
            let answer: Message = answer.unwrap();
            // Either nothing was committed to, and the upstream answers, or the relay says whose fault it is.
            let label = answer.field("culvert-failure");
            match answer.status() {
                200 => assert_eq!(answer.text(), "upstream GET / HTTP/1.1\n"),
                502 => assert!(label.is_some_and(|label| label.starts_with("tunnel_")), "{}", answer.text()),
                other => panic!("{other}: {}", answer.text()),
            }
        }
        bystander.was_served().await;
        leave(session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_protocol_version_is_told_both() {
    let upstream = Origin::named("upstream").await.unwrap();
    let world = World::before(&upstream.url()).await.unwrap();
    let alice = world.developer("alice").await.unwrap();
    for transport in TRANSPORTS {
        let mut spoken = Spoken::greet(alice.dial(transport).await.unwrap(), vec![4711]).await;
        let FromRelay::Reject { code, message, versions } = spoken.hear().await else { panic!("no reject") };
        assert_eq!((code, versions.as_slice()), (RejectCode::Version, VERSIONS));
        assert!(message.contains("4711") && message.contains(&VERSIONS[0].to_string()), "{message}");
        timeout(PATIENCE, spoken.line.tunnel.closed()).await.expect("a closed tunnel");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_of_request_headers_is_431_and_goes_no_further() {
    let upstream = Origin::named("upstream").await.unwrap();
    let world = World::before(&upstream.url()).await.unwrap();
    let one =
        format!("GET / HTTP/1.1\r\nHost: orders.example\r\nx-large: {}\r\n\r\n", "a".repeat(1024 * 1024));
    let mut many = "GET / HTTP/1.1\r\nHost: orders.example\r\n".to_owned();
    for number in 0..32_768 {
        many.push_str(&format!("x-{number}: aaaaaaaaaaaaaaaaaaaaaa\r\n"));
    }
    many.push_str("\r\n");
    for request in [one, many] {
        let mut caller = Caller::connect(world.door().unwrap()).await.unwrap();
        // The answer may come, and the connection end, before all of it is sent.
        let _ = caller.send(request).await;
        let answer = caller.rest().await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
    }
    assert_eq!(caller::get(world.door().unwrap(), "/", &[]).await.unwrap().status(), 200);
    assert_eq!(upstream.count(), 1);
}

/// Somebody whose requests go down a tunnel all the while.
struct Bystander {
    stop: CancellationToken,
    calls: JoinSet<usize>,
}

impl Bystander {
    fn start(door: SocketAddr) -> Self {
        let (stop, mut calls) = (CancellationToken::new(), JoinSet::new());
        let over = stop.clone();
        calls.spawn(async move {
            let mut caller = Caller::connect(door).await.unwrap();
            let mut served = 0;
            loop {
                let answer = caller.exchange(caller::request("/", &["x-user: alice"])).await.unwrap();
                assert_eq!(answer.text(), "app GET / HTTP/1.1\n");
                served += 1;
                if over.is_cancelled() {
                    return served;
                }
            }
        });
        Self { stop, calls }
    }

    async fn was_served(mut self) {
        self.stop.cancel();
        let served = self.calls.join_next().await.unwrap().unwrap();
        assert!(served > 0);
    }
}

/// A tunnel whose control stream a test speaks itself.
struct Spoken {
    line: Line,
    messages: Messages<RecvHalf>,
    write: SendHalf,
}

impl Spoken {
    async fn greet(line: Line, versions: Vec<u16>) -> Self {
        let (read, write) = line.tunnel.open().await.unwrap().split();
        let mut spoken = Self { line, messages: Messages::new(read), write };
        let hello = Hello {
            versions,
            client_version: "test".to_owned(),
            host: "test".to_owned(),
            user: None,
            process: 1,
            instance: InstanceId::new(1),
            tunnel: None,
            began: None,
        };
        spoken.say(&FromClient::Hello(hello)).await;
        spoken
    }

    async fn say(&mut self, message: &FromClient) {
        write_message(&mut self.write, message).await.unwrap();
    }

    /// The next message that is not a ping.
    async fn hear(&mut self) -> FromRelay {
        loop {
            let next = timeout(PATIENCE, self.messages.next()).await;
            match next.expect("a message").unwrap().expect("a message") {
                FromRelay::Ping { .. } => {}
                message => return message,
            }
        }
    }
}
