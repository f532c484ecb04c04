//! An HTTP server that we dial, an upstream or an app, and the idle connections kept to it. How long a connect may take
//! and what may be tried again is its user's to say.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::http1;
use crate::message::ResponseHead;
use crate::socket::{self, ReadHalf, WriteHalf};

/// Idle connections kept to one origin: as many as nginx is commonly given.
const KEPT: usize = 1024;
/// Shorter than the 60 s after which common servers close an idle connection, so that it is rarely they who do.
const KEPT_FOR: Duration = Duration::from_secs(50);

/// Where it listens. A name is resolved at each connect: addresses move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The host is a name or an address without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Unix {
        path: PathBuf,
    },
}

#[derive(Debug)]
pub struct Origin {
    address: Address,
    idle: Mutex<VecDeque<(Instant, Box<Connection>)>>,
}

/// One connection, for one exchange at a time.
#[derive(Debug)]
pub struct Connection {
    pub reader: http1::Reader<ReadHalf>,
    pub writer: http1::Writer<WriteHalf>,
    /// The head that is being answered, or was last: its memory is used again.
    pub response: ResponseHead,
    reused: bool,
}

impl Origin {
    pub fn new(address: Address) -> Self {
        Self { address, idle: Mutex::default() }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The connection used last that nothing has been heard of since. It can still turn out closed ([`Connection::is_reused`]).
    pub fn kept(&self) -> Option<Box<Connection>> {
        loop {
            let (since, mut connection) = self.idle.lock().pop_back()?;
            if since.elapsed() < KEPT_FOR && !connection.reader.get_ref().is_readable() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    pub async fn connect(&self) -> io::Result<Box<Connection>> {
        let (read, write) = match &self.address {
            Address::Tcp { host, port } => socket::tcp(TcpStream::connect((host.as_str(), *port)).await?)?,
            #[cfg(unix)]
            Address::Unix { path } => socket::other(tokio::net::UnixStream::connect(path).await?),
            #[cfg(not(unix))]
            Address::Unix { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Box::new(Connection {
            reader: http1::Reader::new(read, http1::Limits::default()),
            writer: http1::Writer::new(write),
            response: ResponseHead::default(),
            reused: false,
        }))
    }

    /// Takes a connection back whose exchange was whole in both directions. One that has said more than was asked is
    /// not used again.
    pub fn keep(&self, mut connection: Box<Connection>) {
        if !connection.reader.is_drained() {
            return;
        }
        connection.reader.rest();
        connection.writer.rest();
        let mut idle = self.idle.lock();
        while idle.len() >= KEPT || idle.front().is_some_and(|(since, _)| since.elapsed() >= KEPT_FOR) {
            idle.pop_front();
        }
        idle.push_back((Instant::now(), connection));
    }
}

impl Connection {
    /// It has carried an exchange before, and its peer may have closed it since.
    pub fn is_reused(&self) -> bool {
        self.reused
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}
