//! Callers in an open loop: each request has its time, and does not wait for the one before. Latency counts from that time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::ledger::Side;
use crate::caller::Caller;
use crate::message::Message;

/// Under way at once. Six seconds of 500 a second, twice what anybody may wait; what would be more has failed.
const UNDER_WAY: usize = 3000;

/// A connection that was idle for longer may be closed by the relay at this moment, which would be nobody's fault.
const IDLE: Duration = Duration::from_secs(5);

/// So many failures are told one by one.
const TOLD: usize = 20;

#[derive(Debug)]
pub(super) struct Calls {
    /// Where callers go now, in turns.
    pub(super) doors: watch::Receiver<Arc<[SocketAddr]>>,
    pub(super) begun: Instant,
    pub(super) time: Duration,
    pub(super) rate: u32,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) sent: u64,
    /// How long each took that was answered as it should be, by who answered; sorted.
    pub(super) by_app: Vec<Duration>,
    pub(super) by_upstream: Vec<Duration>,
    /// By what the caller saw.
    pub(super) failed: BTreeMap<String, u64>,
    /// The first ones, and when each was due.
    pub(super) told: Vec<String>,
}

/// Connections that wait for their next request, and since when.
type Pool = Arc<Mutex<Vec<(SocketAddr, Instant, Caller)>>>;

struct Call {
    id: u64,
    due: Instant,
    answered: Result<Side, String>,
    took: Duration,
}

impl Calls {
    pub(super) async fn run(self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut calls = JoinSet::new();
        let pool = Pool::default();
        let each = Duration::from_secs(1) / self.rate;
        let total = self.time.as_secs() * u64::from(self.rate);
        let mut due = self.begun;
        for id in 0..total {
            sleep_until(due).await;
            while let Some(Ok(call)) = calls.try_join_next() {
                outcome.add(call, self.begun);
            }
            outcome.sent += 1;
            if calls.len() < UNDER_WAY {
                let doors = Arc::clone(&self.doors.borrow());
                calls.spawn(call(id, due, doors, Arc::clone(&pool)));
            } else {
                let answered = Err(format!("not sent: {UNDER_WAY} under way"));
                outcome.add(Call { id, due, answered, took: Duration::ZERO }, self.begun);
            }
            due += each;
        }
        while let Some(Ok(call)) = calls.join_next().await {
            outcome.add(call, self.begun);
        }
        outcome.by_app.sort_unstable();
        outcome.by_upstream.sort_unstable();
        outcome
    }
}

async fn call(id: u64, due: Instant, doors: Arc<[SocketAddr]>, pool: Pool) -> Call {
    let answered = exchange(id, &doors, &pool).await;
    let took = due.elapsed();
    Call { id, due, answered, took }
}

async fn exchange(id: u64, doors: &[SocketAddr], pool: &Pool) -> Result<Side, String> {
    let (door, mut caller) = match idle(id, doors, pool) {
        Some(idle) => idle,
        None => connect(id, doors).await?,
    };
    let answer = caller.exchange(request(id)).await.map_err(|error| why(&error))?;
    if answer.field("connection").is_none_or(|said| !said.eq_ignore_ascii_case("close")) {
        pool.lock().unwrap_or_else(PoisonError::into_inner).push((door, Instant::now(), caller));
    }
    whose(id, &answer)
}

/// The one that was used last at the door whose turn it is.
fn idle(id: u64, doors: &[SocketAddr], pool: &Pool) -> Option<(SocketAddr, Caller)> {
    let door = turn(id, doors).next()?;
    let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
    pool.retain(|(at, since, _)| doors.contains(at) && since.elapsed() < IDLE);
    let at = pool.iter().rposition(|(at, ..)| *at == door)?;
    let (door, _, caller) = pool.remove(at);
    Some((door, caller))
}

/// Where a door is closed, to the next one: nothing was sent yet.
async fn connect(id: u64, doors: &[SocketAddr]) -> Result<(SocketAddr, Caller), String> {
    let mut refused = "no door".to_owned();
    for door in turn(id, doors) {
        match Caller::connect(door).await {
            Ok(caller) => return Ok((door, caller)),
            Err(error) => refused = why(&error),
        }
    }
    Err(refused)
}

/// Each door, beginning with another one each time; not in step with whose request it is.
fn turn(id: u64, doors: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    let first = usize::try_from(id / 4).unwrap_or_default() % doors.len().max(1);
    doors.iter().cycle().skip(first).take(doors.len()).copied()
}

/// Half of them claimed, half of those POSTs.
fn request(id: u64) -> String {
    let user = if id.is_multiple_of(2) { "alice" } else { "nobody" };
    let head = format!("/{id} HTTP/1.1\r\nHost: orders.example\r\nx-user: {user}\r\n");
    match id / 2 % 2 {
        0 => format!("GET {head}\r\n"),
        _ => {
            let body = id.to_string();
            format!("POST {head}Content-Length: {}\r\n\r\n{body}", body.len())
        }
    }
}

fn whose(id: u64, answer: &Message) -> Result<Side, String> {
    let status = answer.status();
    if status != 200 {
        return Err(format!("{status} {}", answer.field("culvert-failure").unwrap_or_default()));
    }
    let text = answer.text();
    let side = [Side::App, Side::Upstream].into_iter().find(|side| text == format!("{} {id}", side.name()));
    match side {
        // What nobody has claimed is nobody's but the upstream's.
        Some(Side::App) if id % 2 == 1 => Err("answered by the wrong side".to_owned()),
        Some(side) => Ok(side),
        None => Err("another answer than this request's".to_owned()),
    }
}

/// Without addresses, so that the same is counted as the same.
fn why(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

impl Outcome {
    fn add(&mut self, call: Call, begun: Instant) {
        match call.answered {
            Ok(Side::App) => self.by_app.push(call.took),
            Ok(Side::Upstream) => self.by_upstream.push(call.took),
            Err(why) => {
                if self.told.len() < TOLD {
                    self.told.push(format!(
                        "{:6.2} s: {}: {why}, after {:.2} s",
                        (call.due - begun).as_secs_f64(),
                        request(call.id).lines().next().unwrap_or_default(),
                        call.took.as_secs_f64(),
                    ));
                }
                *self.failed.entry(why).or_default() += 1;
            }
        }
    }
}

/// Of sorted ones; 0.5 is the median.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
