//! What stands behind a measurement: nginx where it is installed, because it is cheap, and otherwise a server of our own.
//! There are two of it, so that it can be told who has answered.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::nginx;
use crate::origin::{Answer, Origin};
use crate::peers::{self, Peer};
use crate::pinned;
use crate::process::Process;

/// The bodies that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Small,
    Medium,
    Large,
}

impl Body {
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    pub fn path(self) -> &'static str {
        match self {
            Self::Small => "/small",
            Self::Medium => "/medium",
            Self::Large => "/large",
        }
    }

    /// As the figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "200 B",
            Self::Medium => "10 KB",
            Self::Large => "1 MB",
        }
    }

    pub fn length(self) -> usize {
        match self {
            Self::Small => 200,
            Self::Medium => 10 * 1024,
            Self::Large => 1024 * 1024,
        }
    }

    /// How many ask for it at once where so many ask for a small one: a large one takes as long as many of those.
    pub fn callers(self, of: usize) -> usize {
        match self {
            Self::Small | Self::Medium => of,
            Self::Large => of.div_ceil(4),
        }
    }
}

/// What the second one answers `/small` with consists of this, and what the first one does of `a`.
pub const OTHER: &str = "b";

#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    /// The second one.
    pub other: SocketAddr,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Nginx(Process),
    Own(#[expect(dead_code, reason = "they are stopped when this is dropped")] [Origin; 2]),
}

impl Upstream {
    /// Serves every [`Body`], where the load runs too.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        let small = |letter: &str| letter.repeat(Body::Small.length());
        if peers::program(Peer::Nginx).is_some() {
            let root = directory.join("bodies");
            fs::create_dir_all(&root)?;
            for body in Body::ALL {
                fs::write(root.join(body.path().trim_start_matches('/')), "a".repeat(body.length()))?;
            }
            let servers = [small("a"), small(OTHER)];
            let (process, [address, other]) =
                nginx::upstreams(directory, &root, &servers, pinned::REST).await?;
            return Ok(Self { address, other, running: Running::Nginx(process) });
        }
        let own = |letter: String| {
            let bodies = Body::ALL.map(|body| (body, Answer::text(&letter.repeat(body.length()))));
            Origin::with(move |request| {
                let line = request.line();
                let path = line.split(' ').nth(1).unwrap_or_default();
                let found = bodies.iter().find(|(body, _)| body.path() == path);
                found.map_or_else(|| Answer::with_status("404 Not Found", ""), |(_, answer)| answer.clone())
            })
        };
        let origins = [own("a".to_owned()).await?, own(OTHER.to_owned()).await?];
        let [address, other] = origins.each_ref().map(Origin::address);
        Ok(Self { address, other, running: Running::Own(origins) })
    }

    /// What serves the figures, for the report.
    pub fn name(&self) -> &'static str {
        match self.running {
            Running::Nginx(_) => "nginx",
            Running::Own(_) => "culvert-loadtest's own, slower than nginx",
        }
    }

    /// Where it is a process of its own.
    pub fn process(&self) -> Option<&Process> {
        match &self.running {
            Running::Nginx(process) => Some(process),
            Running::Own(_) => None,
        }
    }

    /// As relay.yaml writes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
