//! A way between a client and its relay that a test can bend: TCP passes until it is cut, UDP is swallowed.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A network that takes no UDP, as many do; ends when this is dropped.
#[derive(Debug)]
pub struct WithoutUdp {
    address: SocketAddr,
    #[expect(dead_code, reason = "its tasks end with it")]
    tasks: JoinSet<()>,
}

impl WithoutUdp {
    pub async fn to(relay: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let hole = UdpSocket::bind(address).await.context("taking the same port for UDP")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, relay));
            }
        });
        tasks.spawn(async move {
            let mut datagram = vec![0; 2048];
            // Nobody is told: this is how a firewall drops.
            while hole.recv_from(&mut datagram).await.is_ok() {}
        });
        Ok(Self { address, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn pass(mut client: TcpStream, relay: SocketAddr) {
    if let Ok(mut relay) = TcpStream::connect(relay).await {
        // Either end may cut it: that is what it is for.
        let _ = copy_bidirectional(&mut client, &mut relay).await;
    }
}
