//! Several relays of one authority, as they are deployed: each a process with ports and data of its own, which can be stopped and
//! started again while the others go on. Sends nothing, and leads nobody anywhere.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::binaries::Binaries;
use crate::process::Process;
use crate::stack::{Stack, Where, relay_yaml, serve};

#[derive(Debug)]
pub struct Fleet {
    binaries: Binaries,
    relays: Vec<Replica>,
}

#[derive(Debug)]
pub struct Replica {
    file: PathBuf,
    pub process: Process,
    /// Its service's.
    pub door: SocketAddr,
    pub tunnel: SocketAddr,
}

impl Fleet {
    /// So many relays, with the authority of a stack. Its own relay, where developers log in, is none of them.
    pub async fn beside(
        stack: &Stack,
        binaries: &Binaries,
        upstream: &str,
        count: usize,
    ) -> anyhow::Result<Self> {
        let service = |door: &str| {
            format!("services:\n  - {{name: orders, listen: \"{door}\", upstream: \"{upstream}\"}}\n")
        };
        let text = |door: &str, tunnel: &str, admin: &str| {
            let text = relay_yaml(tunnel, admin, &service(door));
            text.replacen("tunnel: {", &format!("tunnel: {{replicas: {count}, "), 1)
        };
        let mut relays = Vec::new();
        for number in 1..=count {
            let home = stack.directory().join(format!("replica-{number}"));
            culvert_certs::private_file::directory(&home.join("data"))?;
            for file in ["authority.key", "authority.pem"] {
                fs::copy(stack.directory().join("data").join(file), home.join("data").join(file))?;
            }
            let (file, any) = (home.join("relay.yaml"), "127.0.0.1:0");
            fs::write(&file, text(any, any, any))?;
            let (process, addresses) = serve(binaries, &file, Where::Anywhere).await?;
            // The next start binds what this one was given.
            let [door, tunnel, admin] = addresses.map(|address| address.to_string());
            fs::write(&file, text(&door, &tunnel, &admin))?;
            let [door, tunnel, _] = addresses;
            relays.push(Replica { file, process, door, tunnel });
        }
        Ok(Self { binaries: binaries.clone(), relays })
    }

    pub fn relays(&self) -> &[Replica] {
        &self.relays
    }

    pub fn doors(&self) -> Vec<SocketAddr> {
        self.relays.iter().map(|relay| relay.door).collect()
    }

    pub fn tunnels(&self) -> Vec<SocketAddr> {
        self.relays.iter().map(|relay| relay.tunnel).collect()
    }

    /// Tells one to finish, waits for its end, and starts it again on its ports and data. True: it had nothing left when it ended.
    pub async fn restart(&mut self, at: usize) -> anyhow::Result<bool> {
        let relay = self.relays.get_mut(at).context("no such relay")?;
        relay.process.signal("TERM").await?;
        relay.process.line("draining").await?;
        // Its ports are free once it has ended.
        let Replica { file, process, door, tunnel } = self.relays.remove(at);
        let ended = process.ended().await?;
        let (process, _) = serve(&self.binaries, &file, Where::Anywhere).await?;
        self.relays.insert(at, Replica { file, process, door, tunnel });
        Ok(ended.code == Some(0))
    }
}
