//! How often a target asks the kernel for something, per request: strace counts, where it is installed and may attach.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::sleep;

use super::target::{CALLERS, Target};
use super::{DIRECT, Sheet, progress};
use crate::peers;
use crate::process::Process;
use crate::upstream::Body;

/// It has attached itself to every thread.
const ATTACHED: Duration = Duration::from_secs(1);
const COUNTED: Duration = Duration::from_secs(1);

pub const COLUMN: &str = "system calls/request";

/// None where there is no strace.
pub async fn count(targets: &[Target<'_>], directory: &Path) -> anyhow::Result<Option<Sheet>> {
    let Some(program) = peers::named("strace") else { return Ok(None) };
    progress("system calls");
    let mut sheet = Sheet::new(format!("System calls, 200 B, {CALLERS} at once"), &[COLUMN]);
    for target in targets.iter().filter(|target| target.name != DIRECT) {
        let file = directory.join("strace");
        let mut command = Command::new(&program);
        command.args(["-f", "-c", "-o"]).arg(&file);
        for process in &target.processes {
            command.args(["-p", &process.pid().to_string()]);
        }
        let mut strace = Process::start("strace", command)?;
        sleep(ATTACHED).await;
        if !strace.is_running() {
            bail!("strace: {}", strace.stderr());
        }
        let loaded = target.load(Body::Small, CALLERS, COUNTED).run().await;
        strace.signal("INT").await?;
        strace.ended().await?;
        let counted = fs::read_to_string(&file).context("reading what strace has counted")?;
        let each = loaded.map(|outcome| [calls(&counted) as f64 / outcome.requests.max(1) as f64]);
        sheet.take(&target.name, each)?;
    }
    Ok(Some(sheet))
}

/// The sum of its fourth column.
fn calls(table: &str) -> u64 {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let calls = rows.filter(|row| row.last() != Some(&"total")).filter_map(|row| {
        row.first()?.parse::<f64>().ok()?;
        row.get(3)?.parse::<u64>().ok()
    });
    calls.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_and_the_total_is_not() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     60.00    0.000600           6       100           writev\n \
                     40.00    0.000400           4        50        10 read\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.001000           6       150        10 total\n";
        assert_eq!(calls(table), 150);
    }
}
