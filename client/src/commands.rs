//! The command line: what is typed becomes values here, and nothing is checked again inside. One file per subcommand.
//! The environment enters here (through clap) and in `main`, and nowhere else.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::address::RelayAddress;
use crate::dial::SetupError;
use crate::exit::Exit;
use crate::login::LoginError;
use crate::profile::{Profile, ProfileError, Profiles};
use crate::screen::{Format, Look, Screen, because};
use crate::session::SessionError;
use crate::status::Counter;

pub mod intercept;
pub mod leave;
pub mod login;
pub mod ls;
pub mod status;

/// Sends some of a service's requests in the cluster to a process on this machine
#[derive(Debug, Parser)]
#[command(name = "culvert", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 internal, 2 usage or configuration (also: client and relay of different protocol versions), \
3 denied, 4 conflict or superseded, 5 relay unreachable, 6 no such service";

#[derive(Debug, Subcommand)]
pub enum Command {
    Login(login::Arguments),
    Intercept(Box<intercept::Arguments>),
    Ls(ls::Arguments),
    Status(status::Arguments),
    Leave(leave::Arguments),
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The relay; without it the one of the last login. Further addresses of it, repeated or behind commas, are its other replicas'
    #[arg(long, global = true, value_name = "URL", env = "CULVERT_RELAY", value_delimiter = ',')]
    pub relay: Vec<RelayAddress>,
    /// How data is printed on stdout
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Output,
    /// Print failures only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print what happens inside (-vv: everything)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Which log lines are printed, as TARGET=LEVEL,…
    #[arg(long, global = true, env = "CULVERT_LOG", hide = true)]
    pub log: Option<String>,
    /// How everything else is printed on stderr
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: Format,
    /// Print without colour, as when stderr is no terminal
    #[arg(long, global = true, env = "NO_COLOR", value_parser = FalseyValueParser::new())]
    pub no_color: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
    Yaml,
}

impl Global {
    pub fn look(&self, stderr_is_terminal: bool) -> Look {
        Look {
            quiet: self.quiet,
            colour: stderr_is_terminal && !self.no_color && self.log_format == Format::Term,
            format: self.log_format,
        }
    }

    /// The log filter that was asked for.
    pub fn log_filter(&self) -> Option<&str> {
        match (&self.log, self.verbose) {
            (Some(filter), _) => Some(filter),
            (None, 0) => None,
            (None, 1) => Some("culvert_client=debug,culvert_protocol=debug"),
            (None, _) => Some("trace"),
        }
    }
}

/// What a command runs with, all of it from outside.
#[derive(Debug)]
pub struct Surroundings {
    pub profiles: Profiles,
    pub screen: Screen,
    /// Where this user's running clients answer; none, where there is no place for that.
    pub counter: Option<Counter>,
}

impl Surroundings {
    fn counter(&self) -> Result<&Counter, CommandError> {
        self.counter.as_ref().ok_or_else(|| {
            CommandError::Usage(UsageError::advising(
                "finding the running clients: none of XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is an absolute path",
                "HOME=/home/me culvert …",
            ))
        })
    }
}

impl Arguments {
    pub async fn run(self, around: &Surroundings) -> Result<(), CommandError> {
        let Self { global, command } = self;
        match command {
            Command::Login(arguments) => arguments.run(&global, around).await,
            Command::Intercept(arguments) => arguments.run(&global, around).await,
            Command::Ls(arguments) => arguments.run(&global, around).await,
            Command::Status(arguments) => arguments.run(&global, around).await,
            Command::Leave(arguments) => arguments.run(&global, around).await,
        }
    }
}

/// The login at the relay that was named, or at the last one. Of several addresses, one that was logged in at.
fn profile(global: &Global, profiles: &Profiles) -> Result<Profile, ProfileError> {
    let Some(first) = global.relay.first() else { return profiles.load(&profiles.default_relay()?) };
    let mut login = profiles.load(first);
    for other in &global.relay {
        if matches!(login, Err(ProfileError::Absent { .. })) {
            login = profiles.load(other).or(login);
        }
    }
    let mut login = login?;
    login.also = global.relay.iter().filter(|relay| **relay != login.relay).cloned().collect();
    Ok(login)
}

/// `data` as it was asked for; `table` is what a person reads.
fn print(
    screen: &Screen,
    output: Output,
    data: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), CommandError> {
    let text = match output {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(data).map_err(unprintable)? + "\n",
        Output::Yaml => serde_saphyr::to_string(data).map_err(unprintable)?,
    };
    match screen.data(&text) {
        // Whoever read it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(CommandError::Print),
    }
}

fn unprintable(error: impl std::error::Error + Send + Sync + 'static) -> CommandError {
    CommandError::Print(io::Error::other(error))
}

/// Why a command failed; [`CommandError::exit`] and [`CommandError::advice`] say the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    #[error("{0}")]
    Usage(UsageError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    List(#[from] crate::list::ListError),
    #[error("reading the join token from {from}: {cause}")]
    ReadToken { from: TokenSource, cause: io::Error },
    #[error(transparent)]
    Token(#[from] culvert_certs::TokenError),
    #[error("printing to stdout: {0}")]
    Print(io::Error),
    #[error("listening for Ctrl-C: {0}")]
    Signals(io::Error),
    #[error("asking the running clients: {0}")]
    Counter(io::Error),
    #[error("starting: {0}")]
    Runtime(io::Error),
}

/// What was typed cannot be meant, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    what: String,
    advice: Option<String>,
}

impl UsageError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), advice: None }
    }

    fn advising(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: Some(advice.into()) }
    }
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<UsageError> for CommandError {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

/// Where a join token is read from. Never the command line, which every user of the machine can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    Stdin,
    File(PathBuf),
}

impl From<OsString> for TokenSource {
    fn from(text: OsString) -> Self {
        if text == "-" { Self::Stdin } else { Self::File(text.into()) }
    }
}

impl std::fmt::Display for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl CommandError {
    /// There is no directory to keep a login in.
    pub fn no_home() -> Self {
        Self::Usage(UsageError::advising(
            "finding the configuration directory: neither XDG_CONFIG_HOME nor HOME is an absolute path",
            "HOME=/home/me culvert …",
        ))
    }

    pub fn log_filter(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Usage(UsageError::advising(
            format!("reading CULVERT_LOG: {}", because(error)),
            "CULVERT_LOG=culvert_client=debug",
        ))
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::ReadToken { .. } | Self::Token(_) | Self::Setup(SetupError::App(_)) => {
                Exit::Usage
            }
            Self::Profile(error) => error.exit(),
            Self::Setup(_) | Self::Print(_) | Self::Signals(_) | Self::Counter(_) | Self::Runtime(_) => {
                Exit::Internal
            }
            Self::Login(error) => error.exit(),
            Self::Session(error) => error.exit(),
            Self::List(error) => error.exit(),
        }
    }

    /// The next command to try.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Usage(error) => error.advice.clone(),
            Self::Profile(error) => error.advice(),
            Self::Login(error) => error.advice(),
            Self::Session(error) => error.advice(),
            Self::List(error) => error.advice(),
            Self::ReadToken { .. } | Self::Token(_) => {
                Some("the whole line that `culvert-relay token create NAME` printed".to_owned())
            }
            Self::Setup(SetupError::App(_)) => {
                Some("--app-ca FILE, with the certificate of the app's authority".to_owned())
            }
            Self::Setup(_) | Self::Print(_) | Self::Signals(_) | Self::Counter(_) | Self::Runtime(_) => None,
        }
    }

    /// Tells it, and what to try.
    pub fn show(&self, screen: &Screen) {
        screen.failure(&because(self), self.advice().as_deref());
    }
}

#[cfg(test)]
mod tests;
