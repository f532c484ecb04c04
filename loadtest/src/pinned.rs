//! Which processor a program of a measurement runs on: what is measured alone on the first, everything else on the
//! second. Where there is only one, or no `taskset`, everything runs everywhere, and the report says so.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::process::Command;

/// Where the measured program runs.
pub const MEASURED: usize = 0;
/// Where load and upstreams run.
pub const REST: usize = 1;

/// A command that starts `program` on one processor.
pub fn command(program: impl AsRef<OsStr>, cpu: usize) -> Command {
    if !possible() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

/// Moves this process, with all its threads.
pub async fn this(cpu: usize) {
    if possible() {
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", &cpu.to_string(), &std::process::id().to_string()]);
        // Unpinned figures are noisier, not wrong.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    }
}

/// Asked once, because a process that has moved itself to one processor sees only that one.
pub fn possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let installed = ["/usr/bin/taskset", "/bin/taskset"].iter().any(|path| Path::new(path).exists());
        installed && processors() > REST
    })
}

/// How many there are; the same before and after.
pub fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}
