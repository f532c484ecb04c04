//! The settings of a TCP connection under a tunnel: the counterpart of [`super::quic_transport`]. Makes no connection.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

/// What the kernel holds that has not left yet. A small request that comes later waits behind no more than this; what waits
/// longer waits in the multiplexer, where streams take turns.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 32 * 1024;

/// For both ends. What a platform does not have is left out: it makes tunnels faster, not right.
pub fn tune_tcp(stream: &TcpStream) -> io::Result<()> {
    // What is flushed is meant to leave.
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = SockRef::from(stream);
        // Old kernels, and containers that intercept system calls, know neither.
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        // Bytes that nobody acknowledges end the connection when silence would.
        let _ = socket.set_tcp_user_timeout(Some(super::IDLE_LIMIT));
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = SockRef::from(stream);
    Ok(())
}
