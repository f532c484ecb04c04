//! The only printing: data goes to stdout, everything else to stderr, as lines for a person or as JSON for a program.
//!
//! Whatever is printed passes one gate ([`shown`]), because much of it is said by peers: nothing of theirs reaches a
//! terminal as anything else than text. Knows no secret, prints no header, no body and no query string.
//!
//! A line is handed to a thread of its own and dropped when that cannot keep up: a terminal that was stopped with
//! Ctrl-S must not stop the requests.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use jiff::{Timestamp, Zoned};
use serde::Serialize;

mod text;

pub use text::{ago, because, shown, shown_bytes, until};

/// Lines that wait for the terminal: a second of busy traffic.
const WAITING: usize = 1024;

/// How long the last lines may take to be written when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How things are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Only failures.
    pub quiet: bool,
    pub colour: bool,
    pub format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person at a terminal
    #[default]
    Term,
    /// One JSON object per line
    Json,
}

/// One request, as its line tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    pub method: String,
    /// As the caller sent it; see [`shown_bytes`]. Its query is not printed.
    pub target: String,
    /// What the caller got. None: nothing.
    pub status: Option<u16>,
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
    /// Where the request went.
    pub app: String,
    pub failure: Option<String>,
}

/// Cheap to clone. The last one to be dropped waits shortly until everything is written.
#[derive(Clone, Debug)]
pub struct Screen(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    look: Look,
    lines: Option<SyncSender<String>>,
    lost: Arc<AtomicU64>,
    written: Written,
}

impl Screen {
    /// Prints to `out`, which is stderr except in tests.
    pub fn new(look: Look, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        let (done, written) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            write_lines(&waiting, &counter, out);
            // Nobody may be waiting any more.
            let _ = done.send(());
        })?;
        Ok(Self(Arc::new(Shared { look, lines: Some(lines), lost, written: Written(written.into()) })))
    }

    /// Prints nothing at all.
    pub fn silent() -> Self {
        let (_, written) = sync_channel(1);
        let look = Look { quiet: true, ..Look::default() };
        Self(Arc::new(Shared { look, lines: None, lost: Arc::default(), written: Written(written.into()) }))
    }

    /// One line per request.
    pub fn exchange(&self, exchange: &Exchange) {
        if self.0.look.quiet {
            return;
        }
        match self.0.look.format {
            Format::Json => {
                let mut exchange = exchange.clone();
                exchange.target = path_of(&exchange.target);
                self.event("request", &exchange);
            }
            Format::Term => self.put(&self.exchange_line(exchange)),
        }
    }

    /// One line about the session: `event` is its name for programs, `text` the sentence for people.
    pub fn notice(&self, event: &'static str, text: &str) {
        if self.0.look.quiet {
            return;
        }
        match self.0.look.format {
            Format::Json => self.event(event, &Text { message: text }),
            Format::Term => self.put(&format!("culvert: {}", shown(text))),
        }
    }

    /// Why the process ends, and what to type next. Printed even when everything else is silenced.
    pub fn failure(&self, what: &str, advice: Option<&str>) {
        match self.0.look.format {
            Format::Json => self.event("failed", &Failure { message: what, advice }),
            Format::Term => {
                let culvert = self.paint("31", "culvert:");
                self.put(&format!("{culvert} {}", shown(what)));
                if let Some(advice) = advice {
                    self.put(&format!("try: {}", shown(advice)));
                }
            }
        }
    }

    /// What was asked for, on stdout.
    pub fn data(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn exchange_line(&self, exchange: &Exchange) -> String {
        let mut line = self.paint("2", &Zoned::now().strftime("%H:%M:%S").to_string());
        let status = match exchange.status {
            Some(status) => self.paint(colour_of(status), &status.to_string()),
            None => self.paint("31", "---"),
        };
        // Writing to a String does not fail.
        let _ = write!(
            line,
            " {} {} {status} {} {}",
            shown(&exchange.method),
            shown(&path_of(&exchange.target)),
            in_words(exchange.took),
            shown(&exchange.app),
        );
        if let Some(failure) = &exchange.failure {
            let _ = write!(line, " {}", self.paint("31", &shown(failure)));
        }
        line
    }

    fn event(&self, event: &'static str, detail: &impl Serialize) {
        let time = format!("{:.3}", Timestamp::now());
        // Only strings and numbers inside: it does not fail.
        if let Ok(line) = serde_json::to_string(&Event { time, event, detail }) {
            self.put(&shown(&line));
        }
    }

    /// `line` has passed the gate.
    fn put(&self, line: &str) {
        let Some(lines) = &self.0.lines else { return };
        if lines.try_send(format!("{line}\n")).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.0.look.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A query may hold what nobody else should read, and lines end up in files.
fn path_of(target: &str) -> String {
    match target.split_once('?') {
        Some((path, _)) => format!("{path}?…"),
        None => target.to_owned(),
    }
}

fn colour_of(status: u16) -> &'static str {
    match status {
        200..300 => "32",
        400..500 => "33",
        500.. => "31",
        _ => "36",
    }
}

fn in_words(took: Duration) -> String {
    let milliseconds = took.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1}ms")
    } else if milliseconds < 10_000.0 {
        format!("{milliseconds:.0}ms")
    } else {
        format!("{:.1}s", took.as_secs_f64())
    }
}

fn milliseconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1e6).round() / 1e3)
}

fn write_lines(waiting: &Receiver<String>, lost: &AtomicU64, mut out: impl Write) {
    while let Ok(line) = waiting.recv() {
        let dropped = lost.swap(0, Ordering::Relaxed);
        // Nobody is left to be told that stderr is gone.
        if dropped > 0 {
            let _ = writeln!(out, "culvert: {dropped} lines were dropped");
        }
        let _ = out.write_all(line.as_bytes());
    }
    let _ = out.flush();
}

#[derive(Serialize)]
struct Event<'a, T> {
    time: String,
    event: &'static str,
    #[serde(flatten)]
    detail: &'a T,
}

#[derive(Serialize)]
struct Text<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Failure<'a> {
    message: &'a str,
    #[serde(rename = "try")]
    advice: Option<&'a str>,
}

/// Told once when everything is written. Only ever used by the one that is dropped last.
struct Written(std::sync::Mutex<Receiver<()>>);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.lines.take().is_some()
            && let Ok(written) = self.written.0.get_mut()
        {
            let _ = written.recv_timeout(LAST_WORDS);
        }
    }
}

/// Log lines, of `-v` and `CULVERT_LOG`, go the same way as all others.
impl tracing_subscriber::fmt::MakeWriter<'_> for Screen {
    type Writer = LogLine;

    fn make_writer(&self) -> LogLine {
        LogLine { screen: self.clone(), text: Vec::new() }
    }
}

/// One log line, printed when it is dropped.
#[derive(Debug)]
pub struct LogLine {
    screen: Screen,
    text: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        self.screen.put(&shown_bytes(self.text.trim_ascii_end()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What was printed, once the screen is gone.
    fn printed(look: Look, print: impl FnOnce(&Screen)) -> String {
        #[derive(Clone, Default)]
        struct Paper(Arc<Mutex<Vec<u8>>>);
        impl Write for Paper {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let paper = Paper::default();
        let screen = Screen::new(look, paper.clone()).unwrap();
        print(&screen);
        drop(screen);
        let bytes = paper.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn exchange() -> Exchange {
        Exchange {
            method: "GET".to_owned(),
            target: "/orders/1?token=hunter2".to_owned(),
            status: Some(200),
            took: Duration::from_micros(12_345),
            app: "127.0.0.1:9002".to_owned(),
            failure: None,
        }
    }

    #[test]
    fn a_request_is_one_line_without_its_query() {
        let line = printed(Look::default(), |screen| screen.exchange(&exchange()));
        assert!(line.ends_with(" GET /orders/1?… 200 12ms 127.0.0.1:9002\n"), "{line:?}");
        assert_eq!(line.lines().count(), 1);

        let line = printed(Look { format: Format::Json, ..Look::default() }, |screen| {
            screen.exchange(&exchange());
        });
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["event"], "request");
        assert_eq!(json["target"], "/orders/1?…");
        assert_eq!(json["took_ms"], 12.345);
        assert!(json["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn what_a_peer_says_cannot_move_the_cursor() {
        let mut hostile = exchange();
        hostile.method = "G\x1b[2JET".to_owned();
        hostile.target = "/\r\nculvert: all is well\u{202e}\u{9b}31m".to_owned();
        hostile.failure = Some("\u{7}bell\u{feff}".to_owned());
        for format in [Format::Term, Format::Json] {
            let line = printed(Look { format, ..Look::default() }, |screen| {
                screen.exchange(&hostile);
            });
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(line.trim_end_matches('\n').chars().all(text::is_plain), "{line:?}");
        }
    }

    #[test]
    fn quiet_means_failures_only() {
        let text = printed(Look { quiet: true, ..Look::default() }, |screen| {
            screen.exchange(&exchange());
            screen.notice("connected", "connected");
            screen.failure("logging in: denied", Some("culvert login relay"));
        });
        assert_eq!(text, "culvert: logging in: denied\ntry: culvert login relay\n");
    }

    #[test]
    fn colour_is_for_those_who_want_it() {
        let plain = printed(Look::default(), |screen| screen.exchange(&exchange()));
        assert!(!plain.contains('\x1b'), "{plain:?}");
        let coloured = printed(Look { colour: true, ..Look::default() }, |screen| {
            screen.exchange(&exchange());
        });
        assert!(coloured.contains("\x1b[32m200\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn a_terminal_that_was_stopped_does_not_stop_the_requests() {
        struct Stopped(Receiver<()>);
        impl Write for Stopped {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Until the test lets go.
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stopped) = sync_channel(0);
        let screen = Screen::new(Look::default(), Stopped(stopped)).unwrap();
        for _ in 0..WAITING * 2 {
            screen.exchange(&exchange());
        }
        assert!(screen.0.lost.load(Ordering::Relaxed) > 0);
        drop(release);
    }
}
