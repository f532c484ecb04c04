//! To the in-cluster service, and the little that may be sent twice.

use culvert_protocol::body::Sink;
use culvert_protocol::message::RequestHead;
use culvert_protocol::origin::Connection;
use tokio::time::timeout;

use super::{Answers, Backend, carry};
use crate::failure::{Behind, Failure};
use crate::front::caller::Caller;
use crate::front::record::Exchange;
use crate::metrics::Reached;
use crate::service::Service;

/// Sends a request and carries its answer. A connection that was kept may turn out closed: the request goes to a new one, at once, where nothing of it can
/// have been executed, or where executing it twice is the same as once (RFC 9110 §9.2.1).
pub(crate) async fn forward(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<(), Failure> {
    exchange.reaches(Reached::Upstream);
    let mut connection = match service.upstream.kept() {
        Some(connection) => connection,
        None => connect(service).await?,
    };
    loop {
        let nothing_after_head = caller.upload.kept() == 0;
        let again = match attempt(request, caller, &mut connection, service, exchange).await {
            Ok(whole) => {
                if whole {
                    service.upstream.keep(connection);
                }
                return Ok(());
            }
            // Not even the head was taken whole.
            Err(Attempt::Unsent(cause)) if !nothing_after_head => {
                Err(Failure::NoAnswer(Behind::Upstream, cause))
            }
            Err(Attempt::Unsent(cause)) => Ok(Failure::NoAnswer(Behind::Upstream, cause)),
            Err(Attempt::Failed(failure @ Failure::NoAnswer(..)))
                if is_safe(request) && caller.upload.is_whole() && nothing_after_head =>
            {
                Ok(failure)
            }
            Err(Attempt::Failed(failure)) => Err(failure),
        };
        let failure = again?;
        if !connection.is_reused() {
            return Err(failure);
        }
        service.metrics.upstream_retries.inc();
        connection = connect(service).await?;
    }
}

enum Attempt {
    Unsent(String),
    Failed(Failure),
}

async fn attempt(
    request: &RequestHead,
    caller: &mut Caller<'_>,
    connection: &mut Connection,
    service: &Service,
    exchange: &mut Exchange<'_>,
) -> Result<bool, Attempt> {
    let limits = &service.limits;
    let Connection { reader, writer, response, .. } = connection;
    writer.request(request);
    let mut sink = Sink::Http1(writer);
    match caller.timer.within(limits.body_idle, caller.upload.send_kept(&mut sink)).await {
        Ok(Ok(())) => {}
        Ok(Err(cut)) => return Err(Attempt::Unsent(cut.to_string())),
        Err(_) => return Err(Attempt::Failed(Failure::AnswerTimeout(Behind::Upstream))),
    }
    let mut backend = Backend {
        behind: Behind::Upstream,
        sink,
        answers: Answers::Http1 { reader, method: &request.method },
        patience: limits.response_head,
    };
    let carried = carry(request, caller, &mut backend, response, None, limits, exchange)
        .await
        .map_err(Attempt::Failed)?;
    caller.upload.commit();
    Ok(carried.whole)
}

/// Its answer may be asked for twice: nothing is changed by asking.
fn is_safe(request: &RequestHead) -> bool {
    request.is("GET") || request.is("HEAD") || request.is("OPTIONS")
}

async fn connect(service: &Service) -> Result<Box<Connection>, Failure> {
    service.metrics.upstream_connects.inc();
    let upstream = &service.upstream;
    match timeout(service.limits.connect, upstream.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(cause)) => Err(Failure::Connect(format!("{}: {cause}", upstream.address()))),
        Err(_) => Err(Failure::ConnectTimeout),
    }
}
