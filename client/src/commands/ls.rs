//! `culvert ls`: who has claimed what, and which services there are to be claimed.

use std::time::SystemTime;

use culvert_protocol::hello::UnixMillis;
use serde::Serialize;

use super::{CommandError, Global, Surroundings, print, profile};
use crate::dial::{Dialler, Rungs};
use crate::list::{Listing, list};
use crate::screen::{ago, shown, until};
use crate::session::SessionError;

/// Show the relay's services and everybody's intercepts
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What carries the tunnel
    #[arg(long, value_enum, default_value_t)]
    transport: Rungs,
}

impl Arguments {
    pub(super) async fn run(self, global: &Global, around: &Surroundings) -> Result<(), CommandError> {
        let profile = profile(global, &around.profiles)?;
        if profile.has_expired(SystemTime::now()) {
            let not_after = profile.identity.not_after;
            return Err(SessionError::Expired { relay: profile.relay, not_after }.into());
        }
        let dialler = Dialler::new(&profile, self.transport)?;
        let listing = list(&dialler).await?;
        let now = UnixMillis::from(SystemTime::now());
        let data = Data::of(&listing);
        print(&around.screen, global.output, &data, || data.table(now))
    }
}

/// What is printed on stdout with `-o json` and `-o yaml`. Fields are added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Data<'a> {
    identity: &'a str,
    services: Vec<Service<'a>>,
    intercepts: Vec<Claimed<'a>>,
}

#[derive(Debug, Serialize)]
struct Service<'a> {
    name: &'a str,
    /// Where the relay listens for it.
    listen: &'a [String],
}

#[derive(Debug, Serialize)]
struct Claimed<'a> {
    service: &'a str,
    name: &'a str,
    /// As `culvert intercept` takes it, or `all traffic`.
    #[serde(rename = "match")]
    matcher: &'a str,
    mode: &'a str,
    on_unreachable: &'a str,
    owner: &'a str,
    host: &'a str,
    generation: u64,
    /// What carries it, the best first; none while its owner is expected back.
    transports: &'a [String],
    /// Milliseconds since 1970 UTC, by the relay's clock, as are the next ones.
    since_ms: UnixMillis,
    last_seen_ms: UnixMillis,
    /// When the time of its `--ttl` is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<UnixMillis>,
}

impl<'a> Data<'a> {
    fn of(listing: &'a Listing) -> Self {
        let mut services: Vec<_> = listing
            .services
            .iter()
            .map(|service| Service { name: &service.name, listen: &service.listen })
            .collect();
        services.sort_by_key(|service| service.name);
        let mut intercepts: Vec<_> = listing
            .intercepts
            .iter()
            .map(|intercept| Claimed {
                service: &intercept.service,
                name: &intercept.name,
                matcher: &intercept.matcher,
                mode: &intercept.mode,
                on_unreachable: &intercept.on_unreachable,
                owner: &intercept.holder.owner,
                host: &intercept.holder.host,
                generation: intercept.generation,
                transports: &intercept.transports,
                since_ms: intercept.holder.since,
                last_seen_ms: intercept.holder.last_seen,
                expires_ms: intercept.expires,
            })
            .collect();
        intercepts.sort_by_key(|intercept| (intercept.service, intercept.since_ms, intercept.name));
        Self { identity: &listing.identity, services, intercepts }
    }

    /// A service that nobody has claimed anything of has a line too: it is what there is to be claimed.
    fn table(&self, now: UnixMillis) -> String {
        let mut rows =
            vec![["SERVICE", "MATCH", "OWNER", "HOST", "SINCE", "SEEN", "ENDS"].map(str::to_owned)];
        let row = |claimed: &Claimed<'_>| {
            [
                shown(claimed.service),
                shown(claimed.matcher),
                shown(claimed.owner),
                shown(claimed.host),
                ago(claimed.since_ms, now),
                ago(claimed.last_seen_ms, now),
                claimed.expires_ms.map_or_else(|| "-".to_owned(), |end| until(end, now)),
            ]
        };
        for service in &self.services {
            let before = rows.len();
            rows.extend(self.intercepts.iter().filter(|claimed| claimed.service == service.name).map(row));
            if rows.len() == before {
                rows.push([&shown(service.name), "-", "-", "-", "-", "-", "-"].map(str::to_owned));
            }
        }
        let listed =
            |claimed: &&Claimed<'_>| self.services.iter().any(|service| service.name == claimed.service);
        rows.extend(self.intercepts.iter().filter(|claimed| !listed(claimed)).map(row));
        aligned(&rows)
    }
}

/// Columns as wide as their widest cell, the last one left ragged.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut table = String::new();
    for row in rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(line.join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use culvert_protocol::hello::{Holder, ListedIntercept, ListedService};

    use super::*;

    const NOW: UnixMillis = UnixMillis(10_000_000);

    fn listing() -> Listing {
        let service =
            |name: &str| ListedService { name: name.to_owned(), listen: vec!["0.0.0.0:8080".to_owned()] };
        Listing {
            identity: "alice".to_owned(),
            services: vec![service("orders"), service("billing")],
            intercepts: vec![ListedIntercept {
                name: "orders:x-user=bob".to_owned(),
                service: "orders".to_owned(),
                matcher: "x-user=bob".to_owned(),
                mode: "steal".to_owned(),
                on_unreachable: "upstream".to_owned(),
                generation: 3,
                holder: Holder {
                    owner: "bob".to_owned(),
                    host: "bobs\x1b[2Jlaptop".to_owned(),
                    since: UnixMillis(NOW.0 - 120_000),
                    last_seen: NOW,
                },
                transports: vec!["quic".to_owned()],
                expires: None,
            }],
        }
    }

    #[test]
    fn the_table_shows_what_is_claimed_and_what_is_free() {
        let listing = listing();
        let table = Data::of(&listing).table(NOW);
        assert_eq!(
            table,
            "SERVICE  MATCH       OWNER  HOST                 SINCE   SEEN      ENDS\n\
             billing  -           -      -                    -       -         -\n\
             orders   x-user=bob  bob    bobs\\u{1b}[2Jlaptop  2m ago  just now  -\n"
        );
    }

    #[test]
    fn a_claim_with_a_ttl_shows_when_it_ends() {
        let mut listing = listing();
        listing.intercepts[0].expires = Some(UnixMillis(NOW.0 + 3_600_000));
        let data = Data::of(&listing);
        let table = data.table(NOW);
        assert!(table.ends_with("just now  in 1h\n"), "{table}");
        let json = serde_json::to_value(&data).unwrap();
        assert_eq!(json["intercepts"][0]["expires_ms"], 13_600_000);
    }

    #[test]
    fn the_json_shape_is_stable() {
        let listing = listing();
        let json = serde_json::to_value(Data::of(&listing)).unwrap();
        let expected = serde_json::json!({
            "identity": "alice",
            "services": [
                {"name": "billing", "listen": ["0.0.0.0:8080"]},
                {"name": "orders", "listen": ["0.0.0.0:8080"]},
            ],
            "intercepts": [{
                "service": "orders", "name": "orders:x-user=bob", "match": "x-user=bob", "mode": "steal",
                "on_unreachable": "upstream", "owner": "bob", "host": "bobs\u{1b}[2Jlaptop", "generation": 3,
                "transports": ["quic"],
                "since_ms": 9_880_000, "last_seen_ms": 10_000_000,
            }],
        });
        assert_eq!(json, expected);
        assert!(serde_saphyr::to_string(&Data::of(&listing)).unwrap().contains("match: x-user=bob"));
    }
}
