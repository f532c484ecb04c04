//! One event of the table, made to happen once to requests at every stage, by every policy and over every transport at once: a
//! relay and a client process for each claim, with a way between them that breaks. What must come of it is the table's to say.

use std::time::Duration;

use culvert_client::dial::Rungs;
use culvert_loadtest::flaky::{Flaky, Protocol, Way};
use culvert_loadtest::message::Message;
use culvert_loadtest::origin::Origin;
use culvert_loadtest::process::Process;
use culvert_loadtest::stack::{Home, Stack, Where};
use culvert_relay::operator::{self, Overview};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::app::{App, Note};
use super::calls::{Call, Ended};
use super::table::{Cell, Event, Outcome, Policy, Stage, When, expected, rung, user};
use crate::{TRANSPORTS, binaries};

/// For conditions that have no notification, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Scene {
    event: Event,
    upstream: Origin,
    app: App,
    stack: Stack,
    way: Flaky,
    home: Home,
    clients: Vec<Process>,
    struck: Instant,
    calls: JoinSet<Ended>,
    /// Whose calls those are.
    waiting: Vec<Cell>,
    ended: Vec<Ended>,
    go_on: CancellationToken,
}

/// Makes an event happen; returns what came of it and should not have.
pub(super) async fn play(event: Event) -> Vec<String> {
    let mut scene = Scene::before(event).await;
    for stage in [Stage::Confirmed, Stage::Uploading, Stage::Answering] {
        scene.begin(stage).await;
    }
    // A head is on its way, or with somebody who says nothing.
    if event.is_silence() {
        scene.strike().await;
        scene.begin(Stage::HeadSent).await;
    } else {
        scene.way.pause();
        scene.begin(Stage::HeadSent).await;
        scene.under_way().await;
        scene.strike().await;
        scene.way.heal();
    }
    scene.settle().await;
    scene.begin(Stage::Before).await;
    scene.hear(|cell| expected(cell).1 != When::Later).await;
    scene.recover().await;
    scene.hear(|_| true).await;
    scene.serve_again().await;
    scene.complaints()
}

impl Scene {
    async fn before(event: Event) -> Self {
        let (upstream, app) = (Origin::named("upstream").await.unwrap(), App::start().await);
        let stack = Stack::before(binaries().await, &upstream.url(), Where::Anywhere).await.unwrap();
        let way = Flaky::to(stack.tunnel).await.unwrap();
        let home = stack.developer_dialling("alice", way.address()).await.unwrap();
        let mut scene = Self {
            event,
            upstream,
            app,
            stack,
            way,
            home,
            clients: Vec::new(),
            struck: Instant::now(),
            calls: JoinSet::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            go_on: CancellationToken::new(),
        };
        scene.start_clients().await;
        scene
    }

    async fn start_clients(&mut self) {
        let app = format!("http://{}", self.app.address);
        let start = |(transport, policy)| {
            let (matches, flag) = (format!("x-user={}", user(transport, policy)), policy.flag(self.event));
            let arguments = [
                "intercept",
                "--transport",
                rung(transport),
                "--on-unreachable",
                &flag,
                "orders",
                &app,
                &matches,
            ];
            Process::start("culvert intercept", self.stack.culvert(&self.home, &arguments)).unwrap()
        };
        self.clients = claims().map(start).collect();
        for client in &self.clients {
            client.line(" -> ").await.unwrap();
        }
    }

    /// Callers of every policy, method and transport, as far as that stage.
    async fn begin(&mut self, stage: Stage) {
        let event = self.event;
        let cells = claims().flat_map(|(transport, policy)| {
            [true, false].map(|safe| Cell { event, stage, policy, safe, transport })
        });
        let door = self.stack.door;
        for cell in cells {
            self.waiting.push(cell);
            if matches!(stage, Stage::Before | Stage::After) {
                self.calls.spawn(Call::whole(cell, door));
                continue;
            }
            let call = Call::begin(cell, door).await.unwrap_or_else(|error| panic!("{cell:?}: {error}"));
            match stage {
                Stage::Confirmed => self.app.notes(Note::Head, &cell.path()).await,
                Stage::Uploading => self.app.notes(Note::Half, &cell.path()).await,
                _ => {}
            }
            let go_on = self.go_on.clone();
            self.calls.spawn(async move { call.end(&go_on).await });
        }
    }

    /// The relay has sent every head.
    async fn under_way(&self) {
        let begun = self.calls.len() as u64;
        until("every request is under way", async || {
            let routes = self.routes().await;
            routes.tunnels.iter().map(|tunnel| tunnel.exchanges).sum::<u64>() == begun
        })
        .await;
    }

    async fn strike(&mut self) {
        self.struck = Instant::now();
        match self.event {
            Event::CablePulled | Event::CableBack => self.way.cut(),
            Event::UpDead => self.deafen(Way::Up),
            Event::DownDead => self.deafen(Way::Down),
            Event::ClientKilled => self.signal("KILL").await,
            Event::ClientStopped | Event::ClientContinued => self.signal("STOP").await,
            Event::ClientRestarted => self.signal("KILL").await,
            Event::ClientLeaves => {
                self.signal("TERM").await;
                for client in &self.clients {
                    client.line("stopping: ").await.unwrap();
                }
            }
            Event::AppDown => self.app.stop().await,
            Event::AppThinks => {}
            Event::AppStopped => self.app.freeze(true),
            Event::RelayKilled => self.stack.relay.signal("KILL").await.unwrap(),
            Event::RelayLeaves => {
                self.stack.relay.signal("TERM").await.unwrap();
                self.stack.relay.line("draining").await.unwrap();
            }
        }
    }

    /// Whoever comes now comes afterwards.
    async fn settle(&mut self) {
        match self.event {
            Event::ClientRestarted => self.start_clients().await,
            Event::ClientLeaves => {
                until("the claims are given back", async || self.routes().await.claims.is_empty()).await;
            }
            Event::RelayKilled | Event::RelayLeaves => {
                let door = self.stack.door;
                until("the door is closed", async || TcpStream::connect(door).await.is_err()).await;
            }
            Event::AppDown | Event::AppThinks | Event::AppStopped => {}
            // By what the first ones got it is known.
            _ => {
                let first = |cell: Cell| cell.stage == Stage::HeadSent && cell.policy != Policy::Hold;
                self.hear(first).await;
            }
        }
    }

    async fn recover(&mut self) {
        match self.event {
            Event::CablePulled | Event::CableBack | Event::UpDead | Event::DownDead => self.way.heal(),
            Event::ClientKilled => self.start_clients().await,
            Event::ClientStopped | Event::ClientContinued => self.signal("CONT").await,
            Event::AppDown => self.app.start_again().await,
            Event::AppStopped => self.app.freeze(false),
            Event::RelayKilled => self.stack.start_relay().await.unwrap(),
            Event::ClientRestarted | Event::ClientLeaves | Event::AppThinks | Event::RelayLeaves => {}
        }
        self.app.gate.cancel();
        self.go_on.cancel();
    }

    /// The next request of everybody is served by the right side.
    async fn serve_again(&mut self) {
        match self.event {
            Event::RelayLeaves => {
                while self.stack.relay.is_running() {
                    sleep(Duration::from_millis(20)).await;
                }
                self.stack.start_relay().await.unwrap();
            }
            Event::ClientLeaves => {
                for client in self.clients.drain(..) {
                    assert_eq!(client.ended().await.unwrap().code, Some(0));
                }
            }
            _ => {}
        }
        let (event, door) = (self.event, self.stack.door);
        for (transport, policy) in claims() {
            let cell = Cell { event, stage: Stage::After, policy, safe: true, transport };
            let right = || async move {
                Call::whole(cell, door).await.got.is_ok_and(|got| expected(cell).0.contains(&got))
            };
            until("the right side is asked again", right).await;
        }
        self.begin(Stage::After).await;
        self.hear(|_| true).await;
    }

    /// What a caller should not have got, or an app not seen.
    fn complaints(self) -> Vec<String> {
        let mut complaints = Vec::new();
        for Ended { cell, begun, at, got } in &self.ended {
            let (wanted, when) = expected(*cell);
            let after = *at - (*begun).max(self.struck);
            if !got.as_ref().is_ok_and(|got| wanted.contains(got)) || !when.allows(after) {
                complaints.push(format!("{cell:?}: {got:?} after {after:?} instead of {wanted:?} {when:?}"));
            }
            let (app, upstream) =
                (self.app.noted(Note::Head, &cell.path()), self.asked_upstream(&cell.path()));
            let right = match got {
                // Twice is the same as once.
                _ if cell.safe => true,
                Ok(Outcome::App) => (app, upstream) == (1, 0),
                Ok(Outcome::Upstream) => (app, upstream) == (0, 1),
                Ok(Outcome::Unavailable) => (app, upstream) == (0, 0),
                Ok(_) | Err(_) => app <= 1 && upstream == 0,
            };
            if !right {
                complaints.push(format!(
                    "{cell:?}: {got:?}, and the app had it {app} times, the upstream {upstream}"
                ));
            }
        }
        complaints
    }

    fn asked_upstream(&self, path: &str) -> usize {
        let line = format!(" {path} ");
        self.upstream.requests().iter().map(Message::line).filter(|seen| seen.contains(&line)).count()
    }

    /// Waits for the ends of all calls of that kind.
    async fn hear(&mut self, kind: impl Fn(Cell) -> bool) {
        while self.waiting.iter().any(|cell| kind(*cell)) {
            let ended = self.calls.join_next().await.unwrap().unwrap();
            self.waiting.retain(|cell| *cell != ended.cell);
            self.ended.push(ended);
        }
    }

    async fn routes(&self) -> Overview {
        operator::routes(&self.stack.directory().join("data")).await.unwrap()
    }

    fn deafen(&self, way: Way) {
        self.way.blackhole(Protocol::Udp, way);
        self.way.blackhole(Protocol::Tcp, way);
    }

    async fn signal(&self, signal: &str) {
        for client in &self.clients {
            client.signal(signal).await.unwrap();
        }
    }
}

/// Each has a client process of its own.
fn claims() -> impl Iterator<Item = (Rungs, Policy)> {
    TRANSPORTS.into_iter().flat_map(|transport| Policy::ALL.map(|policy| (transport, policy)))
}

async fn until(what: &str, met: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !met().await {
        assert!(begun.elapsed() < PATIENCE, "waiting until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
