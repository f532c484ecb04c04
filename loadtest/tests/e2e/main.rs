//! What a caller, a developer and an operator notice, with both halves of culvert at work: in one process, and as the
//! programs that are shipped. Where a transport could make a difference, on each.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod command_line;
mod failure;
mod hostile;
mod http;
mod ladder;
mod lanes;
mod outage;
mod replicas;
mod routing;
mod secrets;
mod session;
mod sharing;
mod status;
mod unreachable;
mod wake;

use culvert_client::dial::Rungs;
use culvert_loadtest::binaries::Binaries;
use tokio::sync::OnceCell;

const TRANSPORTS: [Rungs; 3] = [Rungs::Quic, Rungs::Tls, Rungs::WebSocket];

/// Built once, however many tests ask.
async fn binaries() -> &'static Binaries {
    static BUILT: OnceCell<Result<Binaries, String>> = OnceCell::const_new();
    let built =
        BUILT.get_or_init(async || Binaries::for_tests().await.map_err(|error| format!("{error:#}"))).await;
    built.as_ref().unwrap_or_else(|error| panic!("{error}"))
}
