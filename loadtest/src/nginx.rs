//! nginx, where it is installed: as the upstream of a measurement, and as the proxy that culvert is measured against.
//! Both get the configuration that a careful operator would give them; nothing is slowed down.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::pinned;
use crate::process::Process;

const STARTS: Duration = Duration::from_secs(10);

/// Its version line, or None where there is no nginx.
pub async fn version() -> Option<String> {
    let said = Command::new("nginx").arg("-v").output().await.ok()?;
    Some(String::from_utf8_lossy(&said.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}

/// Serves the files in `root`, and `small`'s text from memory.
pub async fn upstream(
    directory: &Path,
    root: &Path,
    small: &str,
    cpu: usize,
) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_port().await?;
    let server = format!(
        "open_file_cache max=16;\n server {{ listen {address} backlog=4096;\n  location = /small {{ return 200 \"{small}\"; }}\n  \
         location / {{ root {root}; }} }}",
        root = root.display()
    );
    start("upstream", directory, cpu, address, &server).await
}

/// Passes everything on to `upstream` over kept connections, except requests with `x-user: alice`, which have a map
/// entry of their own: the same decision that culvert takes.
pub async fn proxy(
    directory: &Path,
    cpu: usize,
    upstream: SocketAddr,
) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_port().await?;
    let server = format!(
        "upstream everyone {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}\n \
         upstream alice {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}\n \
         map $http_x_user $to {{ default everyone; alice alice; }}\n \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
         proxy_max_temp_file_size 0;\n \
         server {{ listen {address} backlog=4096; location / {{ proxy_pass http://$to; }} }}"
    );
    start("nginx", directory, cpu, address, &server).await
}

async fn start(
    name: &str,
    directory: &Path,
    cpu: usize,
    address: SocketAddr,
    server: &str,
) -> anyhow::Result<(Process, SocketAddr)> {
    let own = directory.join(name);
    fs::create_dir_all(&own)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!(" {kind}_temp_path {own}/{kind};\n", own = own.display()))
        .collect();
    // One process: a master that is killed leaves its workers behind.
    let text = format!(
        "daemon off; master_process off; pid {own}/pid; error_log stderr warn;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n access_log off; sendfile on; tcp_nodelay on; client_max_body_size 0; \
         default_type application/octet-stream;\n keepalive_requests 1000000000; keepalive_timeout 3600s;\n{temporary} \
         {server}\n}}\n",
        own = own.display()
    );
    let file = own.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = pinned::command("nginx", cpu);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    let mut process = Process::start(name, command)?;
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if !process.is_running() || begun.elapsed() > STARTS {
            bail!("starting nginx as {name}: {}", process.stderr());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok((process, address))
}

/// For programs that cannot say which port the system gave them.
async fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("finding a free port")?;
    Ok(listener.local_addr()?)
}
