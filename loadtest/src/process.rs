//! A program under test: started with its output kept, watched, signalled, measured, and never left behind.

use std::fs;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longer than a start, a drain or a reconnection takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Linux's USER_HZ, in which `/proc/PID/stat` counts: 100 on every architecture that Rust's standard library has.
const TICKS_PER_SECOND: u64 = 100;

/// A running program; killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    output: Arc<Output>,
    readers: JoinSet<()>,
}

#[derive(Debug)]
struct Output {
    lines: Mutex<Vec<(From, String)>>,
    count: watch::Sender<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Stdout,
    Stderr,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// None: a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        Self::start_reading(name, command)
    }

    /// Leaves the standard input as the command has it.
    pub fn start_reading(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let pid = child.id().with_context(|| format!("starting {name}: it is gone already"))?;
        let output = Arc::new(Output { lines: Mutex::default(), count: watch::Sender::new(0) });
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(keep(stdout, From::Stdout, Arc::clone(&output)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(keep(stderr, From::Stderr, Arc::clone(&output)));
        }
        Ok(Self { name: name.to_owned(), pid, child, output, readers })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn stdout(&self) -> String {
        self.output.text(From::Stdout)
    }

    pub fn stderr(&self) -> String {
        self.output.text(From::Stderr)
    }

    /// Waits for a line, on either output, that holds `part`; returns the first.
    pub async fn line(&self, part: &str) -> anyhow::Result<String> {
        self.lines(part, 1).await?.pop().context("no line")
    }

    /// Waits until so many lines hold `part`, and returns them.
    pub async fn lines(&self, part: &str, count: usize) -> anyhow::Result<Vec<String>> {
        let mut grown = self.output.count.subscribe();
        let reading = async {
            loop {
                grown.borrow_and_update();
                let found = self.output.holding(part);
                if found.len() >= count {
                    return Some(found);
                }
                // Ends with an error when both outputs did.
                if grown.changed().await.is_err() {
                    return None;
                }
            }
        };
        if let Ok(Some(found)) = timeout(PATIENCE, reading).await {
            return Ok(found);
        }
        bail!(
            "{} did not print {count} lines with `{part}`; it printed\n{}{}",
            self.name,
            self.stdout(),
            self.stderr()
        )
    }

    /// Sends a signal by its name: `TERM`, `INT`, `KILL`, `STOP`, `CONT`.
    pub async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status().await;
        let sent = sent.with_context(|| format!("sending {signal} to {}", self.name))?;
        if !sent.success() {
            bail!("sending {signal} to {}: it is gone", self.name);
        }
        if signal == "STOP" {
            self.stands().await?;
        }
        Ok(())
    }

    /// Waits until none of its threads runs any more: each stops for itself, and what one of them still says is said.
    async fn stands(&self) -> anyhow::Result<()> {
        let stopped = |task: io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            // The state is what follows the name, which is in parentheses and may hold any.
            io::Result::Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
        };
        let standing = async {
            loop {
                let mut tasks = fs::read_dir(format!("/proc/{}/task", self.pid))?;
                if tasks.all(|task| stopped(task).unwrap_or(true)) {
                    return anyhow::Ok(());
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, standing).await.with_context(|| format!("{} does not stop", self.name))?
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end by itself.
    pub async fn ended(self) -> anyhow::Result<Ended> {
        self.ended_within(PATIENCE).await
    }

    /// The same for one that has more to do.
    pub async fn ended_within(mut self, patience: Duration) -> anyhow::Result<Ended> {
        let Ok(status) = timeout(patience, self.child.wait()).await else {
            bail!("{} does not end; it printed\n{}{}", self.name, self.stdout(), self.stderr());
        };
        let code = status?.code();
        // What it started may hold the outputs open; nobody waits for that.
        let _ = timeout(Duration::from_secs(2), async { while self.readers.join_next().await.is_some() {} })
            .await;
        Ok(Ended { code, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// The processor time that it and its children have used so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let ticks =
            ticks(self.pid).with_context(|| format!("reading the processor time of {}", self.name))?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// The most that it has kept in memory since it began, or since that was forgotten, in KiB.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let reading = || format!("reading the peak memory of {}", self.name);
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).with_context(reading)?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.split_whitespace().next()?.parse().ok()).with_context(reading)
    }

    /// From here on the peak is counted anew, from what it keeps now.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        // proc_pid_clear_refs(5): 5 resets the peak resident set size.
        let forgotten = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
        forgotten.with_context(|| format!("resetting the peak memory of {}", self.name))
    }

    /// What it and its children keep in memory, in KiB.
    pub fn memory(&self) -> anyhow::Result<u64> {
        memory(self.pid).with_context(|| format!("reading the memory of {}", self.name))
    }
}

impl Output {
    fn text(&self, from: From) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(source, _)| *source == from).map(|(_, line)| format!("{line}\n")).collect()
    }

    fn holding(&self, part: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(_, line)| line.contains(part)).map(|(_, line)| line.clone()).collect()
    }
}

async fn keep(source: impl AsyncRead + Unpin, from: From, output: Arc<Output>) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while matches!(source.read_until(b'\n', &mut line).await, Ok(read) if read != 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
        output.lines.lock().unwrap_or_else(PoisonError::into_inner).push((from, text));
        output.count.send_modify(|count| *count += 1);
        line.clear();
    }
}

fn ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets, which may hold spaces; utime and stime are the 14th and 15th.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut own: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    for child in children(pid) {
        own += ticks(child).unwrap_or_default();
    }
    Ok(own)
}

fn memory(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let mut own = pss.and_then(|pss| pss.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    for child in children(pid) {
        own += memory(child).unwrap_or_default();
    }
    Ok(own)
}

fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
