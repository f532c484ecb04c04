//! The tunnels: a server where the relay would be and a client where culvert's would be. They forward bytes and look at no
//! request, so that what they do is less than what a relay does; two of them encrypt.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::Peer;
use crate::peers;
use crate::pinned;
use crate::process::Process;

/// bore's server listens there, and cannot be told otherwise.
const BORE: u16 = 7835;

/// One that is configured, and how its halves are started.
#[derive(Debug)]
pub struct Tunnel {
    peer: Peer,
    /// Where callers come.
    pub address: SocketAddr,
    /// Where the client comes.
    control: SocketAddr,
    app: SocketAddr,
    server_file: PathBuf,
    client_file: PathBuf,
}

impl Tunnel {
    /// To an app behind the client.
    pub async fn configure(peer: Peer, directory: &Path, app: SocketAddr) -> anyhow::Result<Self> {
        let own = directory.join(format!("{peer}-{}", app.port()));
        fs::create_dir_all(&own)?;
        let address = peers::free_port().await?;
        let control = match peer {
            Peer::Bore => SocketAddr::from(([127, 0, 0, 1], BORE)),
            _ => peers::free_port().await?,
        };
        let (server_file, client_file) = (own.join("server.toml"), own.join("client.toml"));
        let (server, client) = match peer {
            Peer::RatholeTcp => rathole(control, address, app, &["", ""]),
            Peer::RatholeTls => rathole(control, address, app, &tls(&own).await?),
            Peer::RatholeNoise => rathole(control, address, app, &noise().await?),
            Peer::Bore => Default::default(),
            Peer::Frp => frp(control, address, app),
            Peer::Nginx | Peer::Haproxy | Peer::Envoy | Peer::Caddy => bail!("{peer} is no tunnel"),
        };
        fs::write(&server_file, server)?;
        fs::write(&client_file, client)?;
        Ok(Self { peer, address, control, app, server_file, client_file })
    }

    /// Once the client can come.
    pub async fn server(&self) -> anyhow::Result<Process> {
        let program = peers::program(self.peer).with_context(|| format!("there is no {}", self.peer))?;
        let mut command = pinned::command(program, pinned::MEASURED);
        match self.peer {
            Peer::Bore => {
                let port = self.address.port().to_string();
                let ports = ["--min-port", &port, "--max-port", &port, "--bind-addr", "127.0.0.1"];
                command.arg("server").args(ports);
            }
            Peer::Frp => _ = command.arg("-c").arg(&self.server_file),
            _ => _ = command.arg("--server").arg(&self.server_file),
        }
        peers::listening(&format!("{} server", self.peer), command, self.control).await
    }

    /// At once.
    pub fn client(&self) -> anyhow::Result<Process> {
        let program = match self.peer {
            Peer::Frp => peers::named("frpc"),
            peer => peers::program(peer),
        };
        let mut command = pinned::command(program.context("there is no client")?, pinned::REST);
        match self.peer {
            Peer::Bore => {
                let (app, port) = (self.app.port().to_string(), self.address.port().to_string());
                command.args([
                    "local",
                    &app,
                    "--local-host",
                    "127.0.0.1",
                    "--to",
                    "127.0.0.1",
                    "--port",
                    &port,
                ]);
            }
            Peer::Frp => _ = command.arg("-c").arg(&self.client_file),
            _ => _ = command.arg("--client").arg(&self.client_file),
        }
        Process::start(&format!("{} client", self.peer), command)
    }

    /// Its client comes back by itself when the server was away.
    pub fn reconnects(&self) -> bool {
        self.peer != Peer::Bore
    }
}

fn rathole(
    control: SocketAddr,
    address: SocketAddr,
    app: SocketAddr,
    [server, client]: &[impl AsRef<str>; 2],
) -> (String, String) {
    (
        format!(
            "[server]\nbind_addr = \"{control}\"\ndefault_token = \"t\"\n{}\n[server.services.app]\nbind_addr = \"{address}\"\n",
            server.as_ref()
        ),
        format!(
            "[client]\nremote_addr = \"{control}\"\ndefault_token = \"t\"\n{}\n[client.services.app]\nlocal_addr = \"{app}\"\n",
            client.as_ref()
        ),
    )
}

/// Its keys as it makes them itself.
async fn noise() -> anyhow::Result<[String; 2]> {
    let program = peers::program(Peer::RatholeNoise).context("there is no rathole")?;
    let made = Command::new(program).arg("--genkey").output().await.context("making keys")?;
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    let after = |title: &str| {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
        lines.nth(1).map(|line| line.trim().to_owned()).with_context(|| format!("no {title} in {text}"))
    };
    let transport = |side: &str, key: &str, value: &str| {
        format!("[{side}.transport]\ntype = \"noise\"\n[{side}.transport.noise]\n{key} = \"{value}\"\n")
    };
    Ok([
        transport("server", "local_private_key", &after("Private")?),
        transport("client", "remote_public_key", &after("Public")?),
    ])
}

/// An authority and a certificate of it, in the form that it reads.
async fn tls(own: &Path) -> anyhow::Result<[String; 2]> {
    let made = [
        "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.crt",
        "pkcs12 -export -out server.pfx -inkey server.key -in server.crt -certfile ca.crt -passout pass:1234",
    ];
    fs::write(own.join("names"), "subjectAltName=DNS:localhost\n")?;
    for arguments in made {
        let mut command = Command::new("openssl");
        command.current_dir(own).args(arguments.split(' ')).stdin(Stdio::null());
        let said = command.output().await.context("running openssl")?;
        if !said.status.success() {
            bail!("openssl {arguments}: {}", String::from_utf8_lossy(&said.stderr));
        }
    }
    let own = own.display();
    Ok([
        format!(
            "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{own}/server.pfx\"\npkcs12_password = \"1234\"\n"
        ),
        format!(
            "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{own}/ca.crt\"\nhostname = \"localhost\"\n"
        ),
    ])
}

/// As it comes: TLS, and one connection for all.
fn frp(control: SocketAddr, address: SocketAddr, app: SocketAddr) -> (String, String) {
    (
        format!(
            "bindAddr = \"127.0.0.1\"\nbindPort = {}\nproxyBindAddr = \"127.0.0.1\"\nlog.level = \"warn\"\n",
            control.port()
        ),
        format!(
            "serverAddr = \"127.0.0.1\"\nserverPort = {}\nlog.level = \"warn\"\n[[proxies]]\nname = \"app\"\ntype = \"tcp\"\n\
             localIP = \"127.0.0.1\"\nlocalPort = {}\nremotePort = {}\n",
            control.port(),
            app.port(),
            address.port()
        ),
    )
}
