//! Thousands of developers at one relay, which is a process of its own as it is shipped: each of them a session in this process
//! with a tunnel and a claim of its own. Measures nothing.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use culvert_client::App;
use culvert_client::dial::{Network, Rungs};
use culvert_client::screen::Screen;
use culvert_client::session::{Claim, Options, Session};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::stack::{Home, Stack};
use crate::world;

/// Sessions of one developer: a relay takes 200 claims from each.
const OF_ONE: usize = 100;

/// Begun at once. A relay shakes hands with 20 of one address at a time, and here they all come from one.
const AT_ONCE: usize = 20;

/// For all claims to be in force, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Begins this program anew where the C library would keep what it gives back. Every attempt to dial has 3 MiB for what arrives at
/// once, hardly any of which is ever touched: fresh pages cost nothing, while kept ones are filled with zeros each time, which for
/// thousands of clients in one process is most of what it does. A client by itself never notices.
pub fn with_fresh_pages() -> anyhow::Result<()> {
    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    if env::var_os(THRESHOLD).is_some() {
        return Ok(());
    }
    let anew = Command::new(env::current_exe()?).args(env::args_os().skip(1)).env(THRESHOLD, "262144").exec();
    Err(anew).context("beginning anew")
}

#[derive(Debug)]
pub struct Crowd {
    /// The number of each is that of its claim.
    pub sessions: Vec<Session>,
}

impl Crowd {
    /// So many, all claims in force.
    pub async fn gather(stack: &Stack, count: usize, rungs: Rungs, app: &str) -> anyhow::Result<Self> {
        let mut homes = Vec::new();
        for number in 0..count.div_ceil(OF_ONE) {
            homes.push(stack.developer(&format!("dev-{number}")).await?);
        }
        let (door, mut starting) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for (number, home) in homes.iter().flat_map(|home| [home; OF_ONE]).take(count).enumerate() {
            let options = options(stack, home, number, rungs, app)?;
            let door = Arc::clone(&door);
            starting.spawn(async move {
                let _turn = door.acquire().await?;
                let mut session = Session::start(options)?;
                if session.ready().await.is_none() {
                    bail!("a session ended: {:?}", session.ended().await);
                }
                anyhow::Ok((number, session))
            });
        }
        let gathering = async {
            let mut sessions = Vec::new();
            while let Some(started) = starting.join_next().await {
                sessions.push(started.context("starting a session")??);
            }
            sessions.sort_by_key(|(number, _)| *number);
            anyhow::Ok(sessions.into_iter().map(|(_, session)| session).collect())
        };
        let sessions = timeout(PATIENCE, gathering).await.context("waiting for claims to be in force")??;
        Ok(Self { sessions })
    }

    /// The field line of a caller whom this one claims.
    pub fn field(number: usize) -> String {
        format!("x-user: c{number}")
    }

    /// All give their claims back.
    pub async fn leave(self) -> anyhow::Result<()> {
        self.sessions.iter().for_each(Session::stop);
        for mut session in self.sessions {
            world::ended(&mut session).await?;
        }
        Ok(())
    }
}

/// Each has a machine of its own: as many at one address as a relay has here would be a different matter, in which it gives everybody
/// else their share first.
fn source(number: usize) -> Option<IpAddr> {
    let [.., third, fourth] = number.to_be_bytes();
    cfg!(target_os = "linux").then(|| Ipv4Addr::new(127, 1, third, fourth).into())
}

fn options(stack: &Stack, home: &Home, number: usize, rungs: Rungs, app: &str) -> anyhow::Result<Options> {
    let claim =
        Claim { intercept: world::intercept(&format!("x-user=c{number}"))?, app: app.parse::<App>()? };
    let network = Network { source: source(number), ..Network::default() };
    Ok(Options {
        profile: home.profiles().through(network).load(&stack.tunnel.to_string().parse()?)?,
        rungs,
        claims: vec![claim],
        screen: Screen::silent(),
        grace: Duration::ZERO,
    })
}
