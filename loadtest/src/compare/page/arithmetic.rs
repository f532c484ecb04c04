//! What one relay would take for many developers and many requests, from what it took for a few: products and sums, each with
//! what it is made of.

use super::all::{self, All};
use super::short;
use super::{pass_through, target, tunnels};
use crate::compare::sheet::Row;
use crate::figures::Table;

const DEVELOPERS: f64 = 10_000.0;
const REQUESTS: f64 = 100_000.0;
/// Of those, what somebody has claimed.
const CLAIMED: f64 = 0.1;
/// How long an upstream takes, and so how many requests are under way.
const ANSWERED_S: f64 = 0.05;
/// Callers keep twice as many connections as they use.
const CALLERS: f64 = 2.0 * REQUESTS * ANSWERED_S;
/// Connections of a developer over TLS while nothing large is under way.
const TLS_CONNECTIONS: f64 = 1.0;
/// As Linux comes: from one address to one other.
const PORTS: f64 = 28_232.0;

pub(super) fn table(all: &All) -> String {
    let mut table = Table::new(1, &["", "over QUIC", "over TLS", "from"]);
    let both = |value: &dyn Fn(usize) -> Option<f64>, unit: &str| {
        [0, 1].map(|way| {
            value(way).map_or_else(
                || "-".to_owned(),
                |value| format!("{} {unit}", short(value)).trim_end().to_owned(),
            )
        })
    };
    let mut row = |what: &str, [quic, tls]: [String; 2], from: String| {
        table.row(vec![what.to_owned(), quic, tls, from]);
    };

    // The most that were measured.
    let rows = ["quic", "tls"].map(|transport| {
        let of = |row: &&Row| row.target.ends_with(&format!(" over {transport}"));
        all.idle.rows.iter().rfind(of)
    });
    let most = rows.iter().flatten().next().and_then(|row| row.target.split(' ').next()?.parse::<f64>().ok());
    let tunnels_count = most.unwrap_or(1.0);
    let idle = |way: usize, column: &str| {
        let row = rows.get(way).copied().flatten()?;
        all.idle.figure(&row.target, column).map(|figure| figure.median)
    };
    let memory = |column: &str| {
        let sheets = &all.pass_through.sheets;
        sheets
            .iter()
            .find_map(|sheet| sheet.figure(pass_through::CULVERT, column))
            .map(|figure| figure.median)
    };
    let gib = |kib: f64| kib / 1024.0 / 1024.0;
    row(
        "memory for the tunnels",
        both(&|way| Some(gib(DEVELOPERS * idle(way, all::EACH)?)), "GiB"),
        format!("{DEVELOPERS} tunnels, each as in the table of idle ones"),
    );
    row(
        "memory for callers' connections",
        both(&|_| Some(gib(CALLERS * memory(target::PER_IDLE)?)), "GiB"),
        format!("{CALLERS} kept, each as an idle one"),
    );
    row(
        "processors for keeping tunnels",
        both(&|way| Some(DEVELOPERS / tunnels_count * idle(way, all::BUSY)? / 100.0), ""),
        format!("{tunnels_count} tunnels, times {}", DEVELOPERS / tunnels_count),
    );
    let passed = all.pass_through.sheets.first();
    let passed = passed.and_then(|sheet| sheet.figure(pass_through::CULVERT, target::CPU));
    let passed = passed.map(|figure| REQUESTS * (1.0 - CLAIMED) * figure.median / 1e6);
    row(
        "processors for what is passed on",
        both(&|_| passed, ""),
        format!("{} requests/s of 200 B", REQUESTS * (1.0 - CLAIMED)),
    );
    let claimed = |way: usize| {
        let relay = all.tunnel.sheets.first()?.figure(tunnels::CULVERT.get(way)?, target::OF_RELAY)?;
        Some(REQUESTS * CLAIMED * relay.median / 1e6)
    };
    row(
        "processors for what is claimed",
        both(&claimed, ""),
        format!("{} requests/s of 200 B, the relay's part", REQUESTS * CLAIMED),
    );
    let upstream = REQUESTS * (1.0 - CLAIMED) * ANSWERED_S;
    row(
        "file descriptors",
        both(&|way| Some(CALLERS + upstream + if way == 0 { 1.0 } else { DEVELOPERS * TLS_CONNECTIONS }), ""),
        format!(
            "{CALLERS} callers, {upstream} to the upstream, and the tunnels: one socket in all, or one each"
        ),
    );
    row(
        "ports to one upstream address",
        both(&|_| Some(upstream), ""),
        format!("of {PORTS}; with answers after {} ms", ANSWERED_S * 1e3),
    );
    table.markdown()
}
