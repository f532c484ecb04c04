//! `culvert-relay`: the command line. Reads arguments, environment and signals, and nothing else does.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use culvert_certs::private_file::PrivateFileError;
use culvert_certs::{AuthorityError, DeveloperName, RelayKeysError};
use culvert_relay::config::parse_duration;
use culvert_relay::operator::{self, AskError, Killed};
use culvert_relay::store::StoreError;
use culvert_relay::{Config, ConfigError, Drained, Enrolment, Relay, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// The in-cluster half of culvert.
#[derive(Debug, Parser)]
#[command(name = "culvert-relay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "term", global = true)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter as in culvert_relay=debug.
    #[arg(long, env = "CULVERT_LOG", default_value = "info", global = true, hide = true)]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Term,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve callers and developers until SIGTERM or Ctrl-C.
    Serve(File),
    /// Say whether a relay.yaml is valid, with the files that it names.
    Check(File),
    /// Show the claims and tunnels of the relay that runs.
    Routes {
        #[command(flatten)]
        file: File,
        /// How they are printed on standard output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// End a tunnel of the relay that runs, with all of its client, or every claim of a name.
    Kill {
        /// The number of a tunnel or the name of a claim, as `routes` shows them.
        #[arg(value_name = "ID|NAME")]
        what: String,
        #[command(flatten)]
        file: File,
    },
    /// Join tokens, with which developers log in for the first time.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make a join token and print it, alone, on standard output.
    Create {
        /// Who it is for: lower-case letters, digits and . _ - @
        name: DeveloperName,
        #[command(flatten)]
        file: File,
        /// How long it can be used: 500ms, 10s, 15m, 24h.
        #[arg(long, default_value = "24h", value_parser = ttl)]
        ttl: Duration,
        /// How often it can be used.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
    },
}

#[derive(Debug, Args)]
struct File {
    /// The relay's configuration.
    #[arg(short, long = "config", value_name = "FILE", default_value = "relay.yaml")]
    config: PathBuf,
}

/// Log lines that may wait for standard error.
const LINES: usize = 8_192;

/// How often it is looked whether some were lost.
const LOST_LINES: Duration = Duration::from_secs(10);

/// Exit codes, the same for every command of culvert.
const INTERNAL: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 5;

fn main() -> ExitCode {
    // clap itself leaves with 2 for what it cannot read.
    let arguments = Arguments::parse();
    let Err(error) = run(&arguments) else { return ExitCode::SUCCESS };
    say(&format!("culvert-relay: {error:#}"));
    ExitCode::from(exit_code(&error))
}

/// What whoever runs the relay can put right, in the file or around it, is no fault inside.
fn exit_code(error: &anyhow::Error) -> u8 {
    let configured = error.is::<ConfigError>()
        || error.is::<BadFilter>()
        || error.is::<NothingSuch>()
        || error.downcast_ref().is_some_and(is_configured);
    match error.downcast_ref() {
        Some(AskError::NotRunning { .. }) => UNREACHABLE,
        _ if configured => USAGE,
        _ => INTERNAL,
    }
}

/// An address that cannot be had, or a data directory or a key in it that others can read.
fn is_configured(error: &StartError) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    match error {
        StartError::Config(_) => true,
        StartError::Listen { cause, .. } => {
            matches!(cause.kind(), AddrInUse | AddrNotAvailable | PermissionDenied)
        }
        StartError::Authority(AuthorityError::File(file))
        | StartError::Keys(RelayKeysError::File(file))
        | StartError::Store(StoreError::Directory(file)) => {
            matches!(file, PrivateFileError::OpenToOthers { .. })
        }
        _ => false,
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let log = start_log(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &arguments.command {
        Command::Serve(file) => runtime.block_on(serve(&file.config, arguments.log_format, &log)),
        Command::Check(file) => check(&file.config),
        Command::Routes { file, output } => runtime.block_on(routes(&file.config, *output)),
        Command::Kill { what, file } => runtime.block_on(kill(&file.config, what)),
        Command::Token(Token::Create { name, file, ttl, uses }) => {
            runtime.block_on(create_token(&file.config, name, *ttl, *uses))
        }
    }
}

async fn serve(path: &Path, format: LogFormat, log: &Log) -> anyhow::Result<()> {
    // Before anything is bound: from now on a signal is a request to drain.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let relay = Relay::bind(Config::read(path)?).await?;
    allow_open_files();
    match format {
        LogFormat::Term => say(&relay.addresses().to_string()),
        LogFormat::Json => {
            relay.addresses().to_string().lines().for_each(|line| tracing::info!("{line}"));
        }
    }
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(relay.run(stop.clone()));
    let (mut look, mut told) = (interval(LOST_LINES), 0);
    loop {
        tokio::select! {
            drained = &mut running => return match drained {
                Drained::Whole | Drained::Cut => Ok(()),
                Drained::Failed => Err(anyhow::anyhow!("a part of the relay failed, see above")),
            },
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = look.tick() => {
                let lost = log.lost.dropped_lines();
                if lost > told {
                    tracing::warn!("{} log lines were dropped: standard error is not read fast enough", lost - told);
                }
                told = lost;
                continue;
            }
        }
        if stop.is_cancelled() {
            // The second signal: whoever sends it has no patience left for what is under way.
            return Ok(());
        }
        stop.cancel();
    }
}

/// As many open files as the system lets this process have: each caller and each tunnel over TCP is one, and what a shell or a
/// service manager begins with is often 1,024.
fn allow_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "no more files may be open than at the start");
    }
}

fn check(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    Relay::check(&config)?;
    say(&format!("{}: valid, services: {}", path.display(), config.services.len()));
    Ok(())
}

async fn routes(path: &Path, output: Output) -> anyhow::Result<()> {
    let overview = operator::routes(&Config::read(path)?.data).await?;
    let text = match output {
        Output::Table => overview.table(),
        Output::Json => serde_json::to_string_pretty(&overview)? + "\n",
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

async fn kill(path: &Path, what: &str) -> anyhow::Result<()> {
    let killed = operator::kill(&Config::read(path)?.data, what).await?;
    if killed == Killed::default() {
        return Err(NothingSuch(what.to_owned()).into());
    }
    say(&format!("killed: {} claims, {} tunnels", killed.claims, killed.tunnels));
    Ok(())
}

/// No tunnel has this number, and no claim this name.
#[derive(Debug, thiserror::Error)]
#[error("killing `{}`: no tunnel or claim is called that: see culvert-relay routes", .0.escape_debug())]
struct NothingSuch(String);

async fn create_token(path: &Path, name: &DeveloperName, ttl: Duration, uses: u32) -> anyhow::Result<()> {
    let token = Enrolment::open(&Config::read(path)?)?.mint(name.clone(), ttl, uses).await?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", token.reveal().expose())?;
    stdout.flush()?;
    let times = if uses == 1 { "once".to_owned() } else { format!("{uses} times") };
    let relay = token.relay().unwrap_or("RELAY");
    say(&format!(
        "token {} for {name}, to be used {times} within {}: culvert login {relay} --token-file -",
        token.id(),
        written(ttl)
    ));
    Ok(())
}

fn ttl(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    parse_duration(text)
        .filter(|ttl| (Duration::from_secs(1)..=LONGEST).contains(ttl))
        .ok_or_else(|| "not a time from 1s to 720h: write 10s, 15m or 24h".to_owned())
}

fn written(ttl: Duration) -> String {
    match ttl.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// The filter that was asked for cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the log filter `{text}` (CULVERT_LOG): {cause}")]
struct BadFilter {
    text: String,
    cause: tracing_subscriber::filter::ParseError,
}

/// What writes log lines, until it is dropped.
struct Log {
    lost: ErrorCounter,
    _writes: WorkerGuard,
}

/// To standard error: standard output is data. Of a relay that serves, by a thread of its own: whoever reads it slowly, or not at
/// all, must not hold callers up, and loses lines.
fn start_log(arguments: &Arguments) -> Result<Log, BadFilter> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|cause| BadFilter { text: arguments.log.clone(), cause })?;
    let (lines, writes) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES).thread_name("log").finish(io::stderr());
    let lost = lines.error_counter();
    let writer = match arguments.command {
        Command::Serve(_) => BoxMakeWriter::new(lines),
        _ => BoxMakeWriter::new(io::stderr),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match arguments.log_format {
        LogFormat::Term => log.with_target(false).with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(Log { lost, _writes: writes })
}

/// What a person is told. Nobody may be listening any more, which is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(directory: &Path, door: &str) -> Config {
        let text = format!(
            "{{tunnel: {{listen: '127.0.0.1:0'}}, admin: {{listen: '127.0.0.1:0'}},
              services: [{{name: orders, listen: '{door}', upstream: 'http://127.0.0.1:1'}}]}}"
        );
        Config::parse(&text, &directory.join("relay.yaml")).unwrap()
    }

    #[tokio::test]
    async fn a_port_that_is_taken_exits_as_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = config(directory.path(), &taken.local_addr().unwrap().to_string());
        let error = anyhow::Error::from(Relay::bind(config).await.unwrap_err());
        assert_eq!(exit_code(&error), USAGE, "{error:#}");
    }

    #[tokio::test]
    async fn a_directory_or_a_key_that_others_can_read_exits_as_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), "127.0.0.1:0");
        drop(Relay::bind(config.clone()).await.unwrap());
        let keys = fs::read_dir(&config.data).unwrap().map(|entry| entry.unwrap().path());
        let keys = keys.filter(|path| path.extension().is_some_and(|extension| extension == "key"));
        let mut opened: Vec<_> = keys.collect();
        assert!(!opened.is_empty());
        opened.push(config.data.clone());
        for path in opened {
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, Permissions::from_mode(before.mode() | 0o044)).unwrap();
            let serving = anyhow::Error::from(Relay::bind(config.clone()).await.unwrap_err());
            assert_eq!(exit_code(&serving), USAGE, "{serving:#}");
            assert!(format!("{serving:#}").contains("run `chmod "), "{serving:#}");
            fs::set_permissions(&path, before).unwrap();
        }
        drop(Relay::bind(config).await.unwrap());
    }

    #[test]
    fn a_fault_inside_exits_as_one() {
        assert_eq!(exit_code(&anyhow::anyhow!("a part of the relay failed")), INTERNAL);
    }
}
