//! What `cargo loadtest` measures: which processes stand between the load and an upstream, and what they are compared with.

use anyhow::Context as _;
use tempfile::TempDir;

use crate::bench::{self, CASES, Effort, Report, Target};
use crate::binaries::Binaries;
use crate::nginx;
use crate::pinned;
use crate::stack::{Stack, Where};
use crate::upstream::Upstream;

/// A request that nobody has claimed, beside nginx passing it on.
pub async fn pass_through(binaries: Binaries, effort: Effort) -> anyhow::Result<Report> {
    let Ground { binaries, directory, upstream } = Ground::prepare(binaries).await?;
    let stack = Stack::before(&binaries, &upstream.url(), Where::Pinned).await?;
    let version = nginx::version().await;
    let nginx = match version {
        Some(_) => Some(nginx::proxy(directory.path(), pinned::MEASURED, upstream.address).await?),
        None => None,
    };
    let mut targets = vec![Target::new("direct", upstream.address, &[])];
    if let Some((process, address)) = &nginx {
        targets.push(Target::new("nginx", *address, &[process]));
    }
    targets.push(Target::new("culvert", stack.door, &[&stack.relay]));
    let rows = bench::run(&targets, &CASES, effort).await.context("measuring")?;
    Ok(Report::new("pass-through", "nginx", version, upstream.name(), rows))
}

/// A request that a developer has claimed: relay and client together, on each transport.
pub async fn tunnel(binaries: Binaries, effort: Effort) -> anyhow::Result<Report> {
    let Ground { binaries, directory: _directory, upstream } = Ground::prepare(binaries).await?;
    let stack = Stack::before(&binaries, &upstream.url(), Where::Pinned).await?;
    let app = upstream.address.to_string();
    let alice = stack.developer("alice").await?;
    let quic =
        stack.intercept_quietly(&alice, &["--transport", "quic", "orders", &app, "x-user=quic"]).await?;
    let tls = stack.intercept_quietly(&alice, &["--transport", "tls", "orders", &app, "x-user=tls"]).await?;
    let targets = [
        Target::new("direct", upstream.address, &[]),
        Target::new("culvert, quic", stack.door, &[&stack.relay, &quic]).with_field("x-user: quic"),
        Target::new("culvert, tls", stack.door, &[&stack.relay, &tls]).with_field("x-user: tls"),
    ];
    let rows = bench::run(&targets, &CASES, effort).await.context("measuring")?;
    Ok(Report::new("tunnel", "culvert, quic", None, upstream.name(), rows))
}

/// What every scenario stands on.
struct Ground {
    binaries: Binaries,
    /// Removed when this is dropped.
    directory: TempDir,
    upstream: Upstream,
}

impl Ground {
    async fn prepare(binaries: Binaries) -> anyhow::Result<Self> {
        pinned::this(pinned::REST).await;
        let directory = TempDir::with_prefix("culvert-loadtest-")?;
        let upstream = Upstream::start(directory.path()).await?;
        Ok(Self { binaries, directory, upstream })
    }
}
