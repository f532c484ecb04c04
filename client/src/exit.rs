//! How the process says what happened to whoever started it. Holds the numbers and no text: each error knows its own.

use std::process::ExitCode;

/// The exit codes, which scripts rely on: a number never changes its meaning.
///
/// 7 (timeout), 8 (app refused) and 9 (difference found) belong to commands that are not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    Done,
    /// A fault of culvert or of the machine, not of what was typed.
    Internal,
    /// What was typed, or what is configured on this machine, cannot work. Also a client that is too old or too new
    /// for its relay: trying again does not help, installing another one does.
    Usage,
    /// The relay, or our own check of who it is, says no.
    Denied,
    /// Somebody else holds it, or a newer session of our own took it over.
    Conflict,
    /// The relay does not answer.
    Unreachable,
    NoSuchService,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::NoSuchService => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
