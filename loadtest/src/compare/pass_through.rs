//! A request that nobody has claimed: the relay alone, beside proxies that take the same decision. Somebody has claimed others,
//! so that there is something to be looked up.

use anyhow::bail;

use super::target::{self, Protocol, Target};
use super::{DIRECT, Effort, Ground, Report, progress, syscalls};
use crate::binaries::Binaries;
use crate::caller;
use crate::peers::{Found, Kind, Peer, Proxy};
use crate::stack::{Stack, Where};
use crate::upstream::{Body, OTHER};

const USUAL: [Peer; 2] = [Peer::Nginx, Peer::Haproxy];
const BASELINES: [&str; 2] = ["nginx", "haproxy"];
pub const CULVERT: &str = "culvert";

pub async fn run(binaries: &Binaries, effort: &Effort) -> anyhow::Result<Report> {
    let ground = Ground::prepare().await?;
    let found = Found::of(Kind::Proxy, &effort.peers, &USUAL).await;
    progress("starting what is measured");
    let upstream = &ground.upstream;
    let stack = Stack::before(binaries, &upstream.url(), Where::Pinned).await?;
    let alice = stack.developer("alice").await?;
    let app = upstream.other.to_string();
    let _client = stack.intercept_quietly(&alice, &["orders", &app, "x-user=alice"]).await?;
    let answer = caller::get(stack.door, Body::Small.path(), &["x-user: alice"]).await?;
    if !answer.text().starts_with(OTHER) {
        bail!("culvert does not look at x-user");
    }
    let mut proxies = Vec::new();
    for (peer, _) in &found.there {
        proxies.push((*peer, Proxy::start(*peer, ground.directory.path(), upstream).await?));
    }

    let mut targets = vec![Target {
        name: DIRECT.to_owned(),
        http1: upstream.address,
        h2c: None,
        fields: Vec::new(),
        processes: upstream.process().into_iter().collect(),
    }];
    for (peer, proxy) in &proxies {
        targets.push(Target {
            name: peer.to_string(),
            http1: proxy.http1,
            h2c: Some(proxy.h2c),
            fields: Vec::new(),
            processes: vec![&proxy.process],
        });
    }
    targets.push(Target {
        name: CULVERT.to_owned(),
        http1: stack.door,
        h2c: Some(stack.door),
        fields: Vec::new(),
        processes: vec![&stack.relay],
    });

    let memory = target::memory(&targets, effort).await?;
    let mut sheets = Vec::new();
    for protocol in [Protocol::Http1, Protocol::H2c] {
        for callers in &effort.connections {
            for body in Body::ALL {
                sheets.push(target::saturated(&targets, protocol, body, (*callers).into(), effort).await?);
            }
        }
    }
    sheets.push(target::paced(&targets, effort).await?);
    sheets.extend(syscalls::count(&targets, ground.directory.path()).await?);
    sheets.push(memory);
    Ok(ground.report("pass-through", effort, &BASELINES, &found, sheets))
}
