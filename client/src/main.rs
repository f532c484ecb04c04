//! The command `culvert`: the process around the library. Reads where the user's configuration is, prints why a
//! command failed and what to type next, and turns that into an exit code.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use culvert_client::Exit;
use culvert_client::commands::{Arguments, CommandError, Surroundings};
use culvert_client::dial::{self, Memory, Network, Proxies};
use culvert_client::profile::{self, Profiles};
use culvert_client::screen::{Format, Screen};
use culvert_client::status::{self, Counter};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are no errors, and clap knows where each of them is printed.
            let printed = error.print().is_ok();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return if printed { exit } else { Exit::Internal }.into();
        }
    };
    let look = arguments.global.look(io::stderr().is_terminal());
    let Ok(screen) = Screen::new(look, io::stderr()) else {
        return Exit::Internal.into();
    };
    let outcome = run(arguments, screen.clone());
    let exit = match outcome {
        Ok(()) => Exit::Done,
        Err(error) => {
            error.show(&screen);
            error.exit()
        }
    };
    // The last one: it waits until everything is written.
    drop(screen);
    exit.into()
}

fn run(arguments: Arguments, screen: Screen) -> Result<(), CommandError> {
    if let Some(filter) = arguments.global.log_filter() {
        start_logging(filter, arguments.global.log_format, screen.clone())?;
    }
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let directory = profile::directory(path("XDG_CONFIG_HOME").as_deref(), path("HOME").as_deref())
        .ok_or_else(CommandError::no_home)?;
    let state = dial::directory(path("XDG_STATE_HOME").as_deref(), path("HOME").as_deref());
    let counter = status::directory(path("XDG_RUNTIME_DIR").as_deref(), state).map(Counter::at);
    let around = Surroundings { profiles: Profiles::at(directory).through(network()), screen, counter };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let outcome = runtime.block_on(Box::pin(arguments.run(&around)));
    // A blocking read of standard input, or of a resolver, must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// In small letters first, as everywhere.
fn network() -> Network {
    let value = |name| std::env::var_os(name)?.into_string().ok();
    let variables = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, value(name)));
    let no_proxy = value("no_proxy").or_else(|| value("NO_PROXY"));
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let state = dial::directory(path("XDG_STATE_HOME").as_deref(), path("HOME").as_deref());
    Network {
        proxies: Proxies::new(variables, no_proxy.as_deref()),
        memory: state.map(Memory::at).unwrap_or_default(),
        source: None,
    }
}

/// Log lines go to the screen like everything else.
fn start_logging(filter: &str, format: Format, screen: Screen) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| CommandError::log_filter(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen).with_ansi(false);
    let started = match format {
        Format::Term => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    // Only ever started here, once.
    started.map_err(|error| CommandError::Runtime(io::Error::other(error)))
}
