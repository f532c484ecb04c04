//! What stands behind a measurement: nginx where it is installed, because it is cheap, and otherwise a server of our own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::nginx;
use crate::origin::{Answer, Origin};
use crate::pinned;
use crate::process::Process;

/// The bodies that it serves: name, and length in bytes.
const BODIES: [(&str, usize); 3] = [("small", 200), ("medium", 10 * 1024), ("large", 1024 * 1024)];

#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Nginx(#[expect(dead_code, reason = "it is stopped when this is dropped")] Process),
    Own(#[expect(dead_code, reason = "it is stopped when this is dropped")] Origin),
}

impl Upstream {
    /// Serves `/small`, `/medium` and `/large`, where the load runs too.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        let body = |length: usize| "a".repeat(length);
        if nginx::version().await.is_some() {
            let root = directory.join("www");
            fs::create_dir_all(&root)?;
            for (name, length) in BODIES {
                fs::write(root.join(name), body(length))?;
            }
            let small = body(BODIES[0].1);
            let (process, address) = nginx::upstream(directory, &root, &small, pinned::REST).await?;
            return Ok(Self { address, running: Running::Nginx(process) });
        }
        let answers = BODIES.map(|(name, length)| (format!("GET /{name} "), Answer::text(&body(length))));
        let origin = Origin::with(move |request| {
            let known = answers.iter().find(|(line, _)| request.bytes.starts_with(line.as_bytes()));
            known.map_or_else(|| Answer::with_status("404 Not Found", ""), |(_, answer)| answer.clone())
        })
        .await?;
        Ok(Self { address: origin.address(), running: Running::Own(origin) })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn name(&self) -> &'static str {
        match self.running {
            Running::Nginx(_) => "nginx",
            Running::Own(_) => "own",
        }
    }
}
