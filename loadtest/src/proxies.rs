//! The proxies that companies put before the world, as far as a client meets them: HTTP CONNECT with basic authentication
//! (RFC 9110 section 9.3.6, RFC 7617), and SOCKS5 with user and password (RFC 1928, RFC 1929). They take down what was asked
//! of them, look up names themselves, and do nothing else; real ones are in `.ci/net`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod connect;
mod socks5;

/// How long a client may take to say what it wants.
const ASKS: Duration = Duration::from_secs(10);

/// Runs until it is dropped, which cuts what goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    desk: Arc<Desk>,
    #[expect(dead_code, reason = "its tasks end with it")]
    tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Connect,
    Socks5,
}

/// Whom it lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Everybody,
    Knowing {
        user: &'static str,
        password: &'static str,
    },
    Nobody,
    /// Takes connections, and says nothing.
    Silent,
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// For this target, as the client wrote it, and led there.
    Led(String),
    /// For this target, which did not answer.
    Unreachable(String),
    /// Without the right user and password.
    Unknown,
    Refused(String),
    /// What was said is not the protocol.
    Malformed,
}

struct Desk {
    manner: Manner,
    /// Known to the proxy and to nobody else.
    names: HashMap<String, IpAddr>,
    asked: Mutex<Vec<Asked>>,
}

impl Proxy {
    pub async fn start(speaks: Speaks, manner: Manner) -> anyhow::Result<Self> {
        Self::with_names(speaks, manner, &[]).await
    }

    /// One that can look up names that its clients cannot.
    pub async fn with_names(
        speaks: Speaks,
        manner: Manner,
        names: &[(&str, IpAddr)],
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let names = names.iter().map(|&(name, address)| (name.to_owned(), address)).collect();
        let desk = Arc::new(Desk { manner, names, asked: Mutex::default() });
        let serving = Arc::clone(&desk);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, speaks, Arc::clone(&serving)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, desk, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.desk.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut client: TcpStream, speaks: Speaks, desk: Arc<Desk>) {
    if desk.manner == Manner::Silent {
        return std::future::pending().await;
    }
    let asking = async {
        match speaks {
            Speaks::Connect => connect::ask(&mut client, &desk).await,
            Speaks::Socks5 => socks5::ask(&mut client, &desk).await,
        }
    };
    // Whoever says nothing, or goes, has asked for nothing.
    if let Ok(Ok(Some(mut target))) = timeout(ASKS, asking).await {
        // Either end may cut it.
        let _ = copy_bidirectional(&mut client, &mut target).await;
    }
}

impl Desk {
    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }

    /// None: nobody is asked.
    fn wanted(&self) -> Option<(&'static str, &'static str)> {
        match self.manner {
            Manner::Knowing { user, password } => Some((user, password)),
            Manner::Everybody | Manner::Nobody | Manner::Silent => None,
        }
    }

    /// Leads to `host:port`, and says so before the client is told.
    async fn lead(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        if self.manner == Manner::Nobody {
            self.note(Asked::Refused(target));
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let led = match self.names.get(host) {
            Some(&address) => TcpStream::connect((address, port)).await,
            None => match lookup_host(&target).await.map(|mut found| found.next()) {
                Ok(Some(address)) => TcpStream::connect(address).await,
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(error) => Err(error),
            },
        };
        self.note(if led.is_ok() { Asked::Led(target) } else { Asked::Unreachable(target) });
        led
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("manner", &self.manner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
