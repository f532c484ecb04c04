//! What `culvert ls` shows.

use culvert_protocol::hello::{FromRelay, ListedIntercept, ListedService, listings};

use super::Registry;
use super::entry::Entry;

impl Registry {
    /// Every service and every claim in force, in as many messages as it takes.
    pub(crate) fn listing(&self) -> Vec<FromRelay> {
        let mut services: Vec<_> = self
            .services
            .iter()
            .map(|(name, offered)| ListedService { name: name.to_string(), listen: offered.listen.clone() })
            .collect();
        services.sort_by(|one, other| one.name.cmp(&other.name));
        let mut intercepts: Vec<_> = self.held.lock().claims.iter().map(listed).collect();
        intercepts.sort_by(|one, other| (&one.service, &one.name).cmp(&(&other.service, &other.name)));
        listings(services, intercepts)
    }
}

fn listed(entry: &Entry) -> ListedIntercept {
    let claim = &entry.claim;
    let intercept = &claim.intercept;
    ListedIntercept {
        name: intercept.name.to_string(),
        service: intercept.service.to_string(),
        matcher: intercept.matcher.to_string(),
        mode: intercept.mode.to_string(),
        on_unreachable: intercept.on_unreachable.to_string(),
        generation: claim.generation,
        holder: claim.holder(),
        transports: claim.transports(),
        expires: claim.expires.map(Into::into),
    }
}
