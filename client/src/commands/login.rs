//! `culvert login`: a join token against a certificate that this machine keeps.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::time::SystemTime;

use culvert_certs::{JoinToken, Secret};
use jiff::Timestamp;
use serde::Serialize;

use super::{CommandError, Global, Surroundings, TokenSource, UsageError, print};
use crate::address::RelayAddress;
use crate::login::login_through;
use crate::profile::Profile;

/// More than any token is long. What is longer is some other file.
const TOKEN_CAP: usize = 4096;

/// Log in to a relay with a join token
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The token comes from a file or from standard input, never from the command line, which every user of the machine can see:
  culvert-relay token create alice -c relay.yaml | culvert login relay.example.com --token-file -")]
pub struct Arguments {
    /// HOST[:PORT] (4433 unless said otherwise), or https://HOST[:PORT][/PATH] of an ingress that leads to it
    #[arg(value_name = "RELAY")]
    to: Option<RelayAddress>,
    /// The file with the join token; `-` is standard input
    #[arg(long, value_name = "FILE", env = "CULVERT_TOKEN_FILE")]
    token_file: Option<OsString>,
}

impl Arguments {
    pub(super) async fn run(self, global: &Global, around: &Surroundings) -> Result<(), CommandError> {
        let (relay, source) = self.resolve(global)?;
        let token = read(&source).map_err(|cause| CommandError::ReadToken { from: source, cause })?;
        let token = JoinToken::parse(token.expose())?;
        let profile = login_through(around.profiles.network(), &relay, &token).await?;
        around.profiles.save(&profile)?;
        let logged_in = LoggedIn::of(&profile);
        around.screen.notice("logged-in", &logged_in.sentence());
        around.screen.notice(
            "next",
            "try: culvert intercept SERVICE 8080 -H 'x-user: me'   (`culvert ls` shows the services)",
        );
        // A person has read it just now, on stderr.
        print(&around.screen, global.output, &logged_in, String::new)
    }

    fn resolve(self, global: &Global) -> Result<(RelayAddress, TokenSource), UsageError> {
        let relay = self.to.or_else(|| global.relay.first().cloned()).ok_or_else(|| {
            UsageError::advising("no relay was named", "culvert login relay.example.com --token-file FILE")
        })?;
        let source = self.token_file.filter(|file| !file.is_empty()).ok_or_else(|| {
            UsageError::advising(
                "no join token was given",
                format!("culvert login {relay} --token-file FILE   (`-` reads standard input)"),
            )
        })?;
        Ok((relay, source.into()))
    }
}

/// What is printed on stdout with `-o json` and `-o yaml`.
#[derive(Debug, Serialize)]
struct LoggedIn {
    relay: String,
    name: String,
    /// When the certificate ends.
    not_after: Option<Timestamp>,
}

impl LoggedIn {
    fn of(profile: &Profile) -> Self {
        let not_after = Timestamp::try_from(profile.identity.not_after).ok();
        Self { relay: profile.relay.to_string(), name: profile.identity.name.to_string(), not_after }
    }

    fn sentence(&self) -> String {
        let Self { relay, name, not_after } = self;
        let until = not_after.map_or_else(String::new, |end| {
            let left =
                end.duration_since(Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH));
            format!(", until {end:.0} ({} h from now)", (left.as_mins() + 30) / 60)
        });
        format!("logged in to {relay} as {name}{until}")
    }
}

/// Blocks, which harms nobody: nothing else has begun yet.
fn read(source: &TokenSource) -> io::Result<Secret<Vec<u8>>> {
    match source {
        TokenSource::Stdin => read_from(io::stdin().lock()),
        TokenSource::File(path) => read_from(File::open(path)?),
    }
}

fn read_from(input: impl Read) -> io::Result<Secret<Vec<u8>>> {
    // Reserved at once: a vector that grows would leave copies of a secret in freed memory.
    let mut text = Vec::with_capacity(2 * TOKEN_CAP);
    let read = input.take(TOKEN_CAP as u64).read_to_end(&mut text);
    let text = Secret::new(text);
    read.map(|_| text)
}
