//! culvert as it is shipped: its relay and its clients as processes of their own, with their own command lines and
//! nothing but files, ports and signals between them and a test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use culvert_client::profile::Profiles;
use tempfile::TempDir;
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::pinned;
use crate::process::{Ended, Process};

#[derive(Debug)]
pub struct Stack {
    binaries: Binaries,
    directory: TempDir,
    pub relay: Process,
    pub tunnel: SocketAddr,
    pub admin: SocketAddr,
    /// The first service's.
    pub door: SocketAddr,
    /// As they were given.
    sections: String,
    /// How many relays there were.
    relays: usize,
    where_to: Where,
}

/// Which processors the processes run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Anywhere,
    /// The relay alone on one, the clients with everything else.
    Pinned,
}

/// What one developer keeps.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// What `culvert login` has kept there.
    pub fn profiles(&self) -> Profiles {
        Profiles::at(self.0.join("culvert"))
    }
}

impl Stack {
    /// One service, `orders`, in front of `upstream` (as relay.yaml writes it).
    pub async fn before(binaries: &Binaries, upstream: &str, where_to: Where) -> anyhow::Result<Self> {
        let service =
            format!("services:\n  - {{name: orders, listen: \"127.0.0.1:0\", upstream: \"{upstream}\"}}\n");
        Self::with(binaries, &service, where_to).await
    }

    /// With these further sections of relay.yaml, the services among them.
    pub async fn with(binaries: &Binaries, sections: &str, where_to: Where) -> anyhow::Result<Self> {
        Self::reached_at("127.0.0.1", binaries, sections, where_to).await
    }

    /// The same where developers dial another address of this machine.
    pub async fn reached_at(
        host: &str,
        binaries: &Binaries,
        sections: &str,
        where_to: Where,
    ) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("culvert-")?;
        let file = directory.path().join("relay.yaml");
        fs::write(&file, relay_yaml(&format!("{host}:0"), "127.0.0.1:0", sections))?;
        let (relay, addresses) = serve(binaries, &file, where_to).await?;
        // The next start binds what this one was given.
        let [door, tunnel, admin] = addresses;
        let fixed = sections.replacen("127.0.0.1:0", &door.to_string(), 1);
        fs::write(&file, relay_yaml(&tunnel.to_string(), &admin.to_string(), &fixed))?;
        let (binaries, sections) = (binaries.clone(), sections.to_owned());
        Ok(Self { binaries, directory, relay, tunnel, admin, door, sections, relays: 1, where_to })
    }

    /// Puts another relay, on ports of its own and with the same data, in the place of the one that there is, which runs
    /// on and is handed over.
    pub async fn replace_relay(&mut self) -> anyhow::Result<Process> {
        self.relays += 1;
        let file = self.directory.path().join(format!("relay-{}.yaml", self.relays));
        let tunnel = SocketAddr::new(self.tunnel.ip(), 0).to_string();
        fs::write(&file, relay_yaml(&tunnel, "127.0.0.1:0", &self.sections))?;
        let (relay, [door, tunnel, admin]) = serve(&self.binaries, &file, self.where_to).await?;
        (self.door, self.tunnel, self.admin) = (door, tunnel, admin);
        Ok(std::mem::replace(&mut self.relay, relay))
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn relay_yaml(&self) -> PathBuf {
        self.directory.path().join("relay.yaml")
    }

    /// Starts the relay again on the same ports and data, once the old one is gone.
    pub async fn start_relay(&mut self) -> anyhow::Result<()> {
        let (relay, _) = serve(&self.binaries, &self.relay_yaml(), self.where_to).await?;
        self.relay = relay;
        Ok(())
    }

    /// What `culvert-relay token create` prints.
    pub async fn token(&self, name: &str, options: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binaries.relay);
        command.args(["token", "create", name, "-c"]).arg(self.relay_yaml()).args(options);
        let made = Process::start("culvert-relay token create", command)?.ended().await?;
        if made.code != Some(0) {
            bail!("making a token: {}", made.stderr);
        }
        Ok(made.stdout)
    }

    /// A developer's own directory, in which nobody is logged in yet.
    pub fn home(&self, name: &str) -> anyhow::Result<Home> {
        let home = self.directory.path().join("homes").join(name);
        fs::create_dir_all(&home)?;
        Ok(Home(home))
    }

    /// Makes a token for somebody, and logs them in with it.
    pub async fn developer(&self, name: &str) -> anyhow::Result<Home> {
        self.developer_dialling(name, self.tunnel).await
    }

    /// The same for somebody who knows the relay by another address, with something in between.
    pub async fn developer_dialling(&self, name: &str, relay: SocketAddr) -> anyhow::Result<Home> {
        let home = self.home(name)?;
        let token = self.token(name, &[]).await?;
        let logged_in = self.login_at(&home, relay, &token).await?;
        if logged_in.code != Some(0) {
            bail!("logging in: {}", logged_in.stderr);
        }
        Ok(home)
    }

    /// `culvert login` with a token on its standard input.
    pub async fn login(&self, home: &Home, token: &str) -> anyhow::Result<Ended> {
        self.login_at(home, self.tunnel, token).await
    }

    async fn login_at(&self, home: &Home, relay: SocketAddr, token: &str) -> anyhow::Result<Ended> {
        let file = home.0.join("token");
        fs::write(&file, token)?;
        let mut command = self.culvert(home, &["login", &relay.to_string(), "--token-file", "-"]);
        command.stdin(Stdio::from(fs::File::open(&file)?));
        let ended = Process::start_reading("culvert login", command)?.ended().await?;
        fs::remove_file(&file)?;
        Ok(ended)
    }

    /// A culvert command of one developer, not started. Nothing of the environment steers it.
    pub fn culvert(&self, home: &Home, arguments: &[&str]) -> Command {
        let mut command = match self.where_to {
            Where::Anywhere => Command::new(&self.binaries.client),
            Where::Pinned => pinned::command(&self.binaries.client, pinned::REST),
        };
        command.args(arguments).env("XDG_CONFIG_HOME", &home.0).env("XDG_STATE_HOME", home.0.join("state"));
        command.env("XDG_RUNTIME_DIR", home.0.join("run"));
        command.current_dir(&home.0);
        for steers in ["CULVERT_RELAY", "CULVERT_TOKEN_FILE", "CULVERT_CONFIG", "CULVERT_LOG", "NO_COLOR"] {
            command.env_remove(steers);
        }
        for steers in ["https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(steers).env_remove(steers.to_ascii_uppercase());
        }
        command
    }

    /// `culvert intercept`, once its claim is in force.
    pub async fn intercept(&self, home: &Home, arguments: &[&str]) -> anyhow::Result<Process> {
        let arguments = [&["intercept"], arguments].concat();
        let process = Process::start("culvert intercept", self.culvert(home, &arguments))?;
        process.line(" -> ").await?;
        Ok(process)
    }

    /// The same without a line per request, which would be part of what is measured.
    pub async fn intercept_quietly(&self, home: &Home, arguments: &[&str]) -> anyhow::Result<Process> {
        let arguments = [&["intercept", "--quiet", "--output", "json"], arguments].concat();
        let process = Process::start("culvert intercept", self.culvert(home, &arguments))?;
        process.line("}").await?;
        Ok(process)
    }

    /// A culvert command, from its start to its end.
    pub async fn run(&self, home: &Home, arguments: &[&str]) -> anyhow::Result<Ended> {
        Process::start("culvert", self.culvert(home, arguments))?.ended().await
    }
}

/// The whole file. Developers dial the tunnel's own address.
pub fn relay_yaml(tunnel: &str, admin: &str, sections: &str) -> String {
    let host = tunnel.rsplit_once(':').map_or(tunnel, |(host, _)| host);
    format!(
        "data: data\ntunnel: {{listen: \"{tunnel}\", names: [\"{host}\"]}}\nadmin: {{listen: \"{admin}\"}}\n{sections}"
    )
}

/// The relay once it serves, and where: its first door, its tunnel port, its admin port.
pub(crate) async fn serve(
    binaries: &Binaries,
    file: &Path,
    where_to: Where,
) -> anyhow::Result<(Process, [SocketAddr; 3])> {
    let mut command = match where_to {
        Where::Anywhere => Command::new(&binaries.relay),
        Where::Pinned => pinned::command(&binaries.relay, pinned::MEASURED),
    };
    command.args(["serve", "-c"]).arg(file).env_remove("CULVERT_LOG");
    let relay = Process::start("culvert-relay", command)?;
    // The last of the lines that it starts with.
    let admin = address(&relay.line("admin: listening on ").await?)?;
    let door = address(&relay.line("listening for callers on ").await?)?;
    let tunnel = address(&relay.line("listening for developers on ").await?)?;
    Ok((relay, [door, tunnel, admin]))
}

/// `… on 127.0.0.1:8080 (http)`
fn address(line: &str) -> anyhow::Result<SocketAddr> {
    let (_, rest) = line.split_once(" on ").context("a line without an address")?;
    let text = rest.split(' ').next().unwrap_or_default();
    text.parse().with_context(|| format!("reading an address in `{line}`"))
}
