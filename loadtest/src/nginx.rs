//! nginx, where it is installed: as the upstreams of a measurement, and as one of the proxies that culvert is measured against.
//! Both get the configuration that a careful operator would give them; nothing is slowed down.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;

use crate::peers::{self, Peer, Proxy};
use crate::pinned;
use crate::process::Process;

/// Serve the files in `root`, and each its own text for `/small` from memory.
pub async fn upstreams(
    directory: &Path,
    root: &Path,
    small: &[String; 2],
    cpu: usize,
) -> anyhow::Result<(Process, [SocketAddr; 2])> {
    let addresses = [peers::free_port().await?, peers::free_port().await?];
    // Head and body leave together: apart, tunnels that hold small pieces back would be measured by their callers' delayed
    // acknowledgements.
    let mut servers = String::from("tcp_nopush on; open_file_cache max=16;\n");
    for (address, small) in addresses.iter().zip(small) {
        servers.push_str(&format!(
            " server {{ listen {address} backlog=4096;\n  location = /small {{ return 200 \"{small}\"; }}\n  \
             location / {{ root {root}; }} }}\n",
            root = root.display()
        ));
    }
    let process = start("upstream", directory, cpu, addresses[0], &servers).await?;
    Ok((process, addresses))
}

/// Passes everything on to `upstream` over kept connections, except requests with `x-user: alice`, which go to `other`: the
/// same decision that culvert takes.
pub async fn proxy(directory: &Path, upstream: SocketAddr, other: SocketAddr) -> anyhow::Result<Proxy> {
    let (http1, h2c) = (peers::free_port().await?, peers::free_port().await?);
    let kept = "keepalive 1024; keepalive_requests 1000000000;";
    let servers = format!(
        "upstream everyone {{ server {upstream}; {kept} }}\n upstream alice {{ server {other}; {kept} }}\n \
         map $http_x_user $to {{ default everyone; alice alice; }}\n \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n \
         proxy_max_temp_file_size 0;\n \
         server {{ listen {http1} backlog=4096; location / {{ proxy_pass http://$to; }} }}\n \
         server {{ listen {h2c} http2 backlog=4096; location / {{ proxy_pass http://$to; }} }}"
    );
    let name = format!("nginx-{}", http1.port());
    let process = start(&name, directory, pinned::MEASURED, http1, &servers).await?;
    Ok(Proxy { process, http1, h2c })
}

async fn start(
    name: &str,
    directory: &Path,
    cpu: usize,
    address: SocketAddr,
    servers: &str,
) -> anyhow::Result<Process> {
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
         {servers}\n}}\n",
        own = own.display()
    );
    let file = own.join("nginx.conf");
    fs::write(&file, text)?;
    let program = peers::program(Peer::Nginx).context("there is no nginx")?;
    let mut command = pinned::command(program, cpu);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    peers::listening(name, command, address).await
}
