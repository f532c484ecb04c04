//! The plain proxies, each with one worker on the measured processor and a configuration that takes culvert's decision:
//! requests with `x-user: alice` go to another upstream than everybody's. No access logs, kept connections on both sides, and
//! limits that nothing here reaches.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::{Kind, Peer};
use crate::caller;
use crate::nginx;
use crate::peers;
use crate::pinned;
use crate::process::Process;
use crate::upstream::{OTHER, Upstream};

/// One that runs.
#[derive(Debug)]
pub struct Proxy {
    pub process: Process,
    pub http1: SocketAddr,
    /// May be the same.
    pub h2c: SocketAddr,
}

impl Proxy {
    /// Once it serves, and has shown that it takes the decision.
    pub async fn start(peer: Peer, directory: &Path, upstream: &Upstream) -> anyhow::Result<Self> {
        let proxy = Self::before(peer, directory, upstream.address, upstream.other).await?;
        for (fields, by_other) in [(&[][..], false), (&["x-user: alice"][..], true)] {
            let answer = caller::get(proxy.http1, "/small", fields).await?;
            if answer.text().starts_with(OTHER) != by_other {
                bail!("{peer} does not look at x-user");
            }
        }
        Ok(proxy)
    }

    pub async fn before(
        peer: Peer,
        directory: &Path,
        upstream: SocketAddr,
        other: SocketAddr,
    ) -> anyhow::Result<Self> {
        let program = peers::program(peer).with_context(|| format!("there is no {peer}"))?;
        let http1 = peers::free_port().await?;
        let mut command = pinned::command(program, pinned::MEASURED);
        let h2c = match peer {
            Peer::Nginx => return nginx::proxy(directory, upstream, other).await,
            Peer::Haproxy => {
                let h2c = peers::free_port().await?;
                let file = directory.join("haproxy.cfg");
                fs::write(&file, haproxy(http1, h2c, upstream, other))?;
                command.arg("-f").arg(file);
                h2c
            }
            Peer::Envoy => {
                let file = directory.join("envoy.yaml");
                fs::write(&file, envoy(http1, upstream, other))?;
                command.args(["--concurrency", "1", "-l", "warn", "--disable-hot-restart", "-c"]).arg(file);
                http1
            }
            Peer::Caddy => {
                let file = directory.join("Caddyfile");
                fs::write(&file, caddy(http1, upstream, other))?;
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
                command.env("GOMAXPROCS", "1").env("HOME", directory);
                http1
            }
            Peer::RatholeTcp | Peer::RatholeTls | Peer::RatholeNoise | Peer::Bore | Peer::Frp => {
                bail!("{peer} is no proxy but a {:?}", Kind::Tunnel)
            }
        };
        let process = peers::listening(&peer.to_string(), command, http1).await?;
        Ok(Self { process, http1, h2c })
    }
}

fn haproxy(http1: SocketAddr, h2c: SocketAddr, upstream: SocketAddr, other: SocketAddr) -> String {
    let rules = "  use_backend other if { req.hdr(x-user) -m str alice }\n  default_backend everyone\n";
    let kept = "pool-max-conn 1024 pool-purge-delay 1h";
    format!(
        "global\n  nbthread 1\n  maxconn 8000\n  tune.maxaccept 256\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  \
         timeout http-keep-alive 1h\n  option http-keep-alive\n  http-reuse always\n\
         frontend http1\n  bind {http1} backlog 4096\n{rules}\
         frontend h2c\n  bind {h2c} proto h2 backlog 4096\n{rules}\
         backend everyone\n  server one {upstream} {kept}\n\
         backend other\n  server one {other} {kept}\n"
    )
}

fn caddy(http1: SocketAddr, upstream: SocketAddr, other: SocketAddr) -> String {
    let kept = "transport http {\n      keepalive_idle_conns_per_host 1024\n    }";
    format!(
        "{{\n  admin off\n  auto_https off\n  servers {{\n    protocols h1 h2c\n  }}\n}}\n\
         http://:{port} {{\n  bind 127.0.0.1\n  @alice header x-user alice\n  \
         reverse_proxy @alice {other} {{\n    {kept}\n  }}\n  reverse_proxy {upstream} {{\n    {kept}\n  }}\n}}\n",
        port = http1.port()
    )
}

fn envoy(http1: SocketAddr, upstream: SocketAddr, other: SocketAddr) -> String {
    let cluster = |name: &str, to: SocketAddr| {
        format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n    circuit_breakers: {{thresholds: [{{max_connections: \
             20000, max_requests: 20000, max_pending_requests: 20000}}]}}\n    load_assignment: {{cluster_name: {name}, \
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: \
             {port}}}}}}}}}]}}]}}\n",
            ip = to.ip(),
            port = to.port()
        )
    };
    format!(
        r#"static_resources:
  listeners:
  - name: callers
    address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: callers
          codec_type: AUTO
          generate_request_id: false
          common_http_protocol_options: {{idle_timeout: 3600s}}
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/", headers: [{{name: x-user, string_match: {{exact: alice}}}}]}}
                route: {{cluster: other, timeout: 0s}}
              - match: {{prefix: "/"}}
                route: {{cluster: everyone, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
{everyone}{other}"#,
        ip = http1.ip(),
        port = http1.port(),
        everyone = cluster("everyone", upstream),
        other = cluster("other", other)
    )
}
