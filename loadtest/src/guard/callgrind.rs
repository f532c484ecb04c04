//! What programs do under valgrind's callgrind: started by a script in their place, switched on for the requests that count,
//! and read from what it dumps.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::process::Process;

/// What the allocator is asked for by.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

/// What one program has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) instructions: u64,
    pub(super) allocations: u64,
}

/// The programs as scripts that run them under callgrind, which does not count yet.
pub(super) fn wrapped(binaries: &Binaries, directory: &Path) -> anyhow::Result<Binaries> {
    let wrap = |program: &Path| -> anyhow::Result<PathBuf> {
        let name = program.file_name().context("a program without a name")?;
        let script = directory.join(name);
        let dumps = directory.join("dump");
        let text = format!(
            "#!/bin/sh\nexec valgrind --quiet --tool=callgrind --instr-atstart=no --callgrind-out-file='{}.%p' '{}' \"$@\"\n",
            dumps.display(),
            program.display()
        );
        fs::write(&script, text).with_context(|| format!("writing {}", script.display()))?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        Ok(script)
    };
    Ok(Binaries { relay: wrap(&binaries.relay)?, client: wrap(&binaries.client)? })
}

pub(super) async fn switch(process: &Process, on: bool) -> anyhow::Result<()> {
    control(process, &["--instr", if on { "on" } else { "off" }].join("=")).await
}

/// What it has done since the last dump.
pub(super) async fn work(process: &Process, directory: &Path) -> anyhow::Result<Work> {
    control(process, "--dump").await?;
    let beginning = format!("dump.{}.", process.pid());
    let number = |path: &PathBuf| -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix(&beginning)?.parse().ok()
    };
    let dumps = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = dumps.filter(|path| number(path).is_some()).max_by_key(|path| number(path));
    let newest = newest.context("callgrind has dumped nothing")?;
    read(&fs::read_to_string(&newest)?).with_context(|| format!("reading {}", newest.display()))
}

async fn control(process: &Process, what: &str) -> anyhow::Result<()> {
    let mut command = Command::new("callgrind_control");
    let done = command.arg(what).arg(process.pid().to_string()).output().await?;
    if !done.status.success() {
        bail!("callgrind_control {what}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// A dump in callgrind's format 1: functions have a number, and their name where it stands first.
fn read(dump: &str) -> anyhow::Result<Work> {
    let mut work = Work::default();
    let mut allocators = Vec::new();
    let mut called = "";
    let mut instructions = None;
    for line in dump.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if ALLOCATORS.contains(&name) {
                allocators.push(number);
            }
            called = number;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            if allocators.contains(&called) {
                let count = calls.split(' ').next().unwrap_or_default();
                work.allocations += count.parse::<u64>().with_context(|| line.to_owned())?;
            }
        } else if let Some(total) = line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")) {
            instructions = total.trim().parse().ok();
        }
    }
    work.instructions = instructions.context("there is no total")?;
    Ok(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_tells_instructions_and_calls_of_the_allocator() {
        let dump = "fl=(1) ???\nfn=(1) main\n+3 5\ncfn=(2) malloc\ncalls=3 +1\n* 12\ncfn=(3) free\ncalls=3 +1\n* 9\n\
                    fn=(4) other\n-1 2\ncfn=(2)\ncalls=4 +1\n* 16\nfn=(2)\n0 28\n\ntotals: 44\n";
        assert_eq!(read(dump).unwrap(), Work { instructions: 44, allocations: 7 });
        assert!(read("fn=(1) main\n").is_err());
    }
}
