//! Several tunnels of one client process: who gets what, and what nobody notices when one of them goes.

use std::time::Duration;

use culvert_client::dial::{Line, Rungs};
use culvert_loadtest::caller;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::world::{Developer, World, intercept};
use culvert_protocol::answers::NoAnswer;
use culvert_protocol::frame::{Frame, Reader, Refusal, Writer};
use culvert_protocol::hello::{FromClient, FromRelay, Hello, InstanceId, Messages, VERSIONS, write_message};
use culvert_protocol::intercept::Intercept;
use culvert_protocol::message::{Body, ResponseHead};
use culvert_protocol::tunnel::{CloseCode, CloseReason, RecvHalf, SendHalf, Stream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::TRANSPORTS;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// One tunnel of a client process that the test speaks itself.
struct Lane {
    line: Line,
    messages: Messages<RecvHalf>,
    write: SendHalf,
}

impl Lane {
    async fn of(developer: &Developer, rung: Rungs, instance: u128, policy: &str) -> Self {
        let line = developer.dial(rung).await.unwrap();
        let (read, write) = line.tunnel.open().await.unwrap().split();
        let mut lane = Self { line, messages: Messages::new(read), write };
        lane.say(FromClient::Hello(Hello {
            versions: VERSIONS.to_vec(),
            client_version: "test".to_owned(),
            host: "test".to_owned(),
            user: None,
            process: 1,
            instance: InstanceId::new(instance),
            tunnel: None,
            began: None,
        }))
        .await;
        let claim = intercept("x-user=alice").unwrap();
        let intercept = Box::new(Intercept { on_unreachable: policy.parse().unwrap(), ..claim });
        lane.say(FromClient::Announce { claim: 1, intercept, stamp: None }).await;
        while !matches!(lane.hear().await, FromRelay::Accepted { .. }) {}
        lane
    }

    async fn say(&mut self, message: FromClient) {
        write_message(&mut self.write, &message).await.unwrap();
    }

    async fn hear(&mut self) -> FromRelay {
        loop {
            let message = timeout(PATIENCE, self.messages.next()).await.unwrap().unwrap().unwrap();
            match message {
                FromRelay::Ping { n } => self.say(FromClient::Pong { n }).await,
                other => return other,
            }
        }
    }

    /// Returns when what was said before has been dealt with.
    async fn settle(&mut self) {
        self.say(FromClient::Ping { n: 77 }).await;
        while self.hear().await != (FromRelay::Pong { n: 77 }) {}
    }

    async fn stream(&self) -> Stream {
        timeout(PATIENCE, self.line.tunnel.accept()).await.expect("a request").unwrap()
    }
}

/// Answers 204.
async fn answer(stream: Stream) {
    let (read, write) = stream.split();
    let mut frames = Reader::new(read);
    while frames.frame().unwrap().is_none() {
        assert_ne!(frames.fill().await.unwrap(), 0);
    }
    let mut answers = Writer::new(write);
    answers.response(&ResponseHead { status: 204, body: Body::Empty, ..ResponseHead::default() }).unwrap();
    answers.end(None).unwrap();
    answers.finish().await.unwrap();
}

/// Reads up to it.
async fn confirmation(frames: &mut Reader<RecvHalf>) {
    loop {
        match frames.frame().unwrap() {
            Some(Frame::Confirmed) => return,
            Some(_) => {}
            None => assert_ne!(frames.fill().await.unwrap(), 0),
        }
    }
}

async fn scene() -> (Origin, World, Developer) {
    let upstream = Origin::named("upstream").await.unwrap();
    let world = World::before(&upstream.url()).await.unwrap();
    let alice = world.developer("alice").await.unwrap();
    (upstream, world, alice)
}

fn ask(world: &World, method: &str) -> JoinSet<(u16, String)> {
    let door = world.door().unwrap();
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 0\r\n\r\n");
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        let answer = caller::Caller::connect(door).await.unwrap().exchange(request).await.unwrap();
        (answer.status(), answer.text())
    });
    asking
}

async fn answered(mut asking: JoinSet<(u16, String)>) -> (u16, String) {
    timeout(PATIENCE, asking.join_next()).await.expect("an answer").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_to_a_better_tunnel_cuts_nothing() {
    let (_upstream, world, alice) = scene().await;
    let mut lower = Lane::of(&alice, Rungs::Tls, 1, "upstream").await;
    let under_way = ask(&world, "GET");
    let begun = lower.stream().await;
    // The better one joins; the next request is its, and what is under way stays where it is.
    let better = Lane::of(&alice, Rungs::Quic, 1, "upstream").await;
    let next = ask(&world, "GET");
    answer(better.stream().await).await;
    assert_eq!(answered(next).await.0, 204);
    lower.say(FromClient::Withdraw { claim: 1 }).await;
    lower.settle().await;
    let next = ask(&world, "GET");
    answer(better.stream().await).await;
    assert_eq!(answered(next).await.0, 204);
    answer(begun).await;
    assert_eq!(answered(under_way).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tunnel_refuses_because_it_is_leaving_goes_to_the_other() {
    let (upstream, world, alice) = scene().await;
    let leaving = Lane::of(&alice, Rungs::Quic, 1, "upstream").await;
    let staying = Lane::of(&alice, Rungs::Tls, 1, "upstream").await;
    let asking = ask(&world, "GET");
    let (_read, write) = leaving.stream().await.split();
    let mut answers = Writer::new(write);
    answers.refused(Refusal::Draining, "leaving").unwrap();
    answers.finish().await.unwrap();
    answer(staying.stream().await).await;
    assert_eq!(answered(asking).await.0, 204);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_process_takes_every_tunnel_of_the_older_one() {
    let (_upstream, world, alice) = scene().await;
    let mut older = [
        Lane::of(&alice, Rungs::Quic, 1, "upstream").await,
        Lane::of(&alice, Rungs::Tls, 1, "upstream").await,
    ];
    let newer = Lane::of(&alice, Rungs::Tls, 2, "upstream").await;
    for lane in &mut older {
        assert!(matches!(lane.hear().await, FromRelay::Superseded { claim: 1, .. }));
    }
    let asking = ask(&world, "GET");
    answer(newer.stream().await).await;
    assert_eq!(answered(asking).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_is_confirmed_before_its_body_comes_and_what_does_not_is_not() {
    let (_upstream, world, alice) = scene().await;
    for (policy, method, confirmed) in [
        ("upstream", "POST", true),
        ("hold:3s", "DELETE", true),
        ("503", "POST", false),
        ("hold:3s", "GET", false),
    ] {
        let instance = u128::from(policy.as_bytes()[0]) << 8 | u128::from(method.as_bytes()[0]);
        let lane = Lane::of(&alice, Rungs::Quic, instance, policy).await;
        let asking = ask(&world, method);
        let (read, write) = lane.stream().await.split();
        let (mut frames, mut answers) = (Reader::new(read), Writer::new(write));
        let mut seen = Vec::new();
        while !frames.is_over() {
            match frames.frame().unwrap() {
                Some(Frame::Head(_)) => {
                    seen.push("head");
                    if confirmed {
                        answers.accepted().unwrap();
                        answers.flush().await.unwrap();
                    }
                }
                Some(Frame::Confirmed) => seen.push("confirmed"),
                Some(Frame::End(_)) => seen.push("end"),
                Some(other) => panic!("{other:?}"),
                None => assert_ne!(timeout(PATIENCE, frames.fill()).await.expect("a frame").unwrap(), 0),
            }
        }
        let wanted: &[_] = if confirmed { &["head", "confirmed", "end"] } else { &["head", "end"] };
        assert_eq!(seen, wanted, "{policy} {method}");
        answers.response(&NoAnswer::Closed.head()).unwrap();
        answers.end(None).unwrap();
        answers.finish().await.unwrap();
        assert_eq!(answered(asking).await.0, 502);
    }
}

/// Where a request is when its tunnel goes, while another one leads to the same developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Had {
    Safe,
    Unsafe,
    Answered,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tunnel_had_when_it_went_is_asked_for_on_another_only_if_it_changes_nothing() {
    for transport in TRANSPORTS {
        for had in [Had::Safe, Had::Unsafe, Had::Answered] {
            let (upstream, world, alice) = scene().await;
            let mut lanes = [
                Lane::of(&alice, transport, 1, "upstream").await,
                Lane::of(&alice, transport, 1, "upstream").await,
            ];
            let method = if had == Had::Unsafe { "POST" } else { "GET" };
            let mut caller = caller::Caller::connect(world.door().unwrap()).await.unwrap();
            let fields = "Host: a\r\nx-user: alice\r\nConnection: close\r\nContent-Length: 0";
            caller.send(format!("{method} / HTTP/1.1\r\n{fields}\r\n\r\n")).await.unwrap();
            let stream = tokio::select! {
                stream = lanes[0].stream() => stream,
                stream = lanes[1].stream() => {
                    lanes.reverse();
                    stream
                }
            };
            let [going, staying] = lanes;
            let (read, write) = stream.split();
            let (mut frames, mut answers) = (Reader::new(read), Writer::new(write));
            answers.accepted().unwrap();
            answers.flush().await.unwrap();
            if had == Had::Unsafe {
                timeout(PATIENCE, confirmation(&mut frames)).await.expect("a confirmation");
            }
            if had == Had::Answered {
                let mut head = ResponseHead { status: 200, body: Body::Exact(8), ..ResponseHead::default() };
                head.fields.push(b"content-length", b"8");
                answers.response(&head).unwrap();
                answers.data(b"half").await.unwrap();
                answers.flush().await.unwrap();
                caller.hears("half").await.unwrap();
            }
            going.line.tunnel.close(&CloseReason::new(CloseCode::Internal, "a test"));
            if had == Had::Safe {
                answer(staying.stream().await).await;
            }
            let rest = String::from_utf8_lossy(&caller.rest().await.unwrap()).into_owned();
            match had {
                Had::Safe => assert!(rest.starts_with("HTTP/1.1 204 "), "{transport:?}: {rest}"),
                Had::Unsafe => {
                    assert!(rest.contains("culvert-failure: tunnel_lost"), "{transport:?}: {rest}")
                }
                Had::Answered => assert!(rest.ends_with("half"), "{transport:?}: {rest}"),
            }
            assert_eq!(upstream.count(), 0, "{transport:?} {had:?}");
        }
    }
}
