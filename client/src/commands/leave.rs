//! `culvert leave`: has the running client that holds a claim give it back, finish what is under way, and end.

use culvert_protocol::intercept::InterceptName;

use super::{CommandError, Global, Surroundings, UsageError};

/// Give an intercept of this machine back, as Ctrl-C does where it runs
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What it is called: see `culvert status`
    name: InterceptName,
}

impl Arguments {
    pub(super) async fn run(self, _: &Global, around: &Surroundings) -> Result<(), CommandError> {
        let name = self.name.as_str();
        match around.counter()?.leave(name).await.map_err(CommandError::Counter)? {
            0 => {
                let what = format!("no running client of yours on this machine holds `{name}`");
                Err(UsageError::advising(what, "culvert status").into())
            }
            _ => {
                around.screen.notice("left", &format!("{name} is given back"));
                Ok(())
            }
        }
    }
}
