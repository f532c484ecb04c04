//! To the in-cluster service, and the little that may be sent twice.

use culvert_certs::tls::OriginFailure;
use culvert_protocol::message::RequestHead;
use culvert_protocol::origin::Connection;
use tokio::time::timeout;

use super::{Backend, carry};
use crate::config::Host;
use crate::failure::{Behind, Failure};
use crate::front::caller::Caller;
use crate::front::record::Exchange;
use crate::metrics::Reached;
use crate::service::Service;

/// Sends a request and carries its answer. A connection that was kept may turn out closed: the request goes to a new
/// one, at once, where nothing of it can have been executed, or where twice is the same as once (RFC 9110 §9.2.1).
pub(crate) async fn forward(
    request: &mut RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<(), Failure> {
    exchange.reaches(Reached::Upstream);
    if service.manners.host == Host::Upstream {
        request.set_host(service.upstream.authority().as_bytes());
    }
    let upgrades = !request.upgrade.is_empty();
    let mut kept = service.upstream.kept(upgrades);
    loop {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => connect(service, upgrades).await?,
        };
        let reused = connection.is_reused();
        match attempt(request, caller, connection, service, exchange).await {
            Err(failure) if reused && is_repeatable(&failure, request, caller) => {
                service.metrics.upstream_retries.inc();
            }
            done => return done,
        }
    }
}

async fn attempt(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    connection: Connection,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<(), Failure> {
    let limits = &service.limits;
    let mut under_way = match caller.timer.within(limits.body_idle, connection.request(request)).await {
        Ok(under_way) => under_way.map_err(|cut| super::not_taken(Behind::Upstream, &cut))?,
        Err(_) => return Err(Failure::AnswerTimeout(Behind::Upstream)),
    };
    let (mut sink, answers, response) = under_way.split(request);
    let broken = match caller.timer.within(limits.body_idle, caller.upload.send_kept(&mut sink)).await {
        Ok(Ok(())) => false,
        // Not even the head was taken whole.
        Ok(Err(cut)) if caller.upload.kept() == 0 => return Err(super::not_taken(Behind::Upstream, &cut)),
        Ok(Err(_)) => true,
        Err(_) => return Err(Failure::AnswerTimeout(Behind::Upstream)),
    };
    let (behind, patience, via) = (Behind::Upstream, limits.response_head, service.manners.says_via());
    let mut backend = Backend { behind, sink, answers, patience, via, broken, carried: None };
    let whole = carry(request, caller, &mut backend, response, None, service, exchange).await?;
    caller.upload.commit();
    if whole {
        service.upstream.keep(under_way);
    }
    Ok(())
}

/// Nothing of the request can have been executed, or asking again changes nothing; and all of it is still here.
fn is_repeatable(failure: &Failure, request: &RequestHead, caller: &Caller<'_>) -> bool {
    let whole = caller.upload.is_whole() || !request.upgrade.is_empty();
    match failure {
        Failure::NotTaken(..) => caller.upload.can_be_sent_again(),
        Failure::NoAnswer(..) => {
            request.is_safe() && whole && caller.upload.kept() == 0 && caller.upload.can_be_sent_again()
        }
        _ => false,
    }
}

async fn connect(service: &Service, upgrades: bool) -> Result<Connection, Failure> {
    service.metrics.upstream_connects.inc();
    let upstream = &service.upstream;
    match timeout(service.limits.connect, upstream.connect(upgrades)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(cause)) => {
            let why =
                OriginFailure::of(&cause).map_or_else(|| cause.to_string(), |failure| failure.to_string());
            Err(Failure::Connect(format!("{}: {why}", upstream.address())))
        }
        Err(_) => Err(Failure::ConnectTimeout),
    }
}
