//! Why the relay, and not a backend, answered: whose fault it was, and what caller and log are told. The only place
//! that knows what a failure looks like.

use std::fmt;

use culvert_protocol::answers::NoAnswer;
use culvert_protocol::http1::Refusal;
use culvert_protocol::message::{Body, FAILURE_FIELD, Fields, ResponseHead};

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Caller,
    Relay,
    Tunnel,
    Upstream,
}

/// Where a request was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behind {
    Upstream,
    Tunnel,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the request was refused: {0}")]
    Refused(Refusal),
    #[error("the caller did not send a whole request head in time")]
    HeadTimeout,
    #[error("the caller stopped sending the request's body: {0}")]
    CallerCut(String),
    #[error("the caller hung up")]
    CallerGone,
    #[error("the caller stopped reading the response: {0}")]
    CallerStalled(String),
    #[error("the developer cannot be reached, and the upstream is not to be asked instead")]
    Unreachable,
    #[error("the request came back to the door that it went out by")]
    Loop,
    #[error("the developer's app has no answer: {}", .0.label())]
    App(NoAnswer),
    #[error("more callers are connected than this relay takes")]
    TooManyCallers,
    #[error("connecting to the upstream: {0}")]
    Connect(String),
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    #[error("{0} did not take the request, nothing of it was executed: {1}")]
    NotTaken(Behind, String),
    #[error("{0} closed the connection before it answered: {1}")]
    NoAnswer(Behind, String),
    #[error("{0} does not speak the protocol that was asked for")]
    NoUpgrade(Behind),
    #[error("{0} did not answer in time")]
    AnswerTimeout(Behind),
    #[error("{0} answered with something that is not HTTP: {1}")]
    BadAnswer(Behind, String),
    #[error("{0} stopped in the middle of its answer: {1}")]
    AnswerCut(Behind, String),
}

impl Failure {
    pub fn side(&self) -> Side {
        match self {
            Self::Refused(_)
            | Self::HeadTimeout
            | Self::CallerCut(_)
            | Self::CallerGone
            | Self::CallerStalled(_) => Side::Caller,
            Self::TooManyCallers => Side::Relay,
            Self::Loop | Self::App(_) | Self::Unreachable => Side::Tunnel,
            Self::Connect(_) | Self::ConnectTimeout => Side::Upstream,
            Self::NotTaken(behind, _)
            | Self::NoAnswer(behind, _)
            | Self::NoUpgrade(behind)
            | Self::AnswerTimeout(behind)
            | Self::BadAnswer(behind, _)
            | Self::AnswerCut(behind, _) => behind.side(),
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::CallerCut(_) => 400,
            Self::HeadTimeout => 408,
            // Nobody is left to read it; the number that nginx logs.
            Self::CallerGone | Self::CallerStalled(_) => 499,
            Self::TooManyCallers | Self::Unreachable => 503,
            Self::Loop => 508,
            Self::App(_)
            | Self::Connect(_)
            | Self::NotTaken(..)
            | Self::NoAnswer(..)
            | Self::NoUpgrade(_)
            | Self::BadAnswer(..)
            | Self::AnswerCut(..) => 502,
            Self::ConnectTimeout | Self::AnswerTimeout(_) => 504,
        }
    }

    /// A stable name: the failure field's value and the metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::HeadTimeout => "head_timeout",
            Self::CallerCut(_) => "caller_cut",
            Self::CallerGone => "caller_gone",
            Self::CallerStalled(_) => "caller_stalled",
            Self::TooManyCallers => "too_many_callers",
            Self::Loop => "loop",
            Self::Unreachable => "developer_unreachable",
            Self::App(why) => why.label(),
            Self::Connect(_) => "upstream_unreachable",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::NotTaken(Behind::Upstream, _) => "upstream_not_taken",
            Self::NotTaken(Behind::Tunnel, _) => "tunnel_not_taken",
            Self::NoAnswer(Behind::Upstream, _) => "upstream_no_answer",
            Self::NoAnswer(Behind::Tunnel, _) => "tunnel_lost",
            Self::NoUpgrade(Behind::Upstream) => "upstream_no_upgrade",
            Self::NoUpgrade(Behind::Tunnel) => NoAnswer::NoUpgrade.label(),
            Self::AnswerTimeout(Behind::Upstream) => "upstream_timeout",
            Self::AnswerTimeout(Behind::Tunnel) => "app_timeout",
            Self::BadAnswer(Behind::Upstream, _) => "upstream_bad_answer",
            Self::BadAnswer(Behind::Tunnel, _) => "tunnel_bad_answer",
            Self::AnswerCut(Behind::Upstream, _) => "upstream_cut",
            Self::AnswerCut(Behind::Tunnel, _) => "tunnel_cut",
        }
    }

    /// What the caller reads: fixed text, nothing of the input echoed and no address of the inside.
    pub fn public(&self) -> &'static str {
        match self {
            Self::Refused(_) => "the request is not valid HTTP, or larger than allowed",
            Self::HeadTimeout => "the request head did not arrive in time",
            Self::CallerCut(_) => "the request's body is malformed or did not arrive in time",
            Self::CallerGone | Self::CallerStalled(_) => "the caller is gone",
            Self::Loop => "the developer's app sent the request back here",
            Self::Unreachable => "the developer who takes this request cannot be reached",
            Self::App(NoAnswer::Closed) => "the developer's app closed the connection before it answered",
            Self::App(NoAnswer::Garbage) => "the developer's app answered with something that is not HTTP",
            Self::NoUpgrade(Behind::Upstream) => "the service does not speak the protocol that was asked for",
            Self::NoUpgrade(Behind::Tunnel) | Self::App(NoAnswer::NoUpgrade) => {
                "the developer's app does not speak the protocol that was asked for"
            }
            Self::App(NoAnswer::Other) => "the developer's app did not answer",
            Self::TooManyCallers => "too many connections, try again later",
            Self::Connect(_) => "the service cannot be reached",
            Self::NotTaken(..) => "the service did not take the request",
            Self::ConnectTimeout => "connecting to the service took too long",
            Self::NoAnswer(Behind::Upstream, _) => "the service closed the connection before it answered",
            Self::NoAnswer(Behind::Tunnel, _) => "the developer's tunnel ended before the app answered",
            Self::AnswerTimeout(Behind::Upstream) => "the service did not answer in time",
            Self::AnswerTimeout(Behind::Tunnel) => "the developer's app did not answer in time",
            Self::BadAnswer(Behind::Upstream, _) => "the service's answer is not valid HTTP",
            Self::BadAnswer(Behind::Tunnel, _) => "the developer's answer is not valid",
            Self::AnswerCut(..) => "the answer stopped in the middle",
        }
    }

    /// The answer as the relay gives it: the label in a field, and one line of JSON.
    pub fn render(&self) -> (ResponseHead, Vec<u8>) {
        let body = format!(
            "{{\"failure\":\"{}\",\"side\":\"{}\",\"message\":\"{}\"}}\n",
            self.label(),
            self.side(),
            self.public()
        )
        .into_bytes();
        let mut fields = Fields::default();
        fields.push(b"content-type", b"application/json");
        fields.push(b"content-length", body.len().to_string().as_bytes());
        fields.push(FAILURE_FIELD.as_bytes(), self.label().as_bytes());
        if self.status() == 405 {
            // RFC 9110 §15.5.6 wants the methods named; every other one is the backend's to judge.
            fields.push(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        }
        if self.status() == 503 {
            fields.push(b"retry-after", b"1");
        }
        let head = ResponseHead {
            status: self.status(),
            fields,
            body: Body::Exact(body.len() as u64),
            ..ResponseHead::default()
        };
        (head, body)
    }
}

impl Failure {
    /// The answer to a gRPC call: a status, and nothing else ("Trailers-Only" of the gRPC over HTTP/2 protocol).
    pub fn render_grpc(&self) -> (ResponseHead, Vec<u8>) {
        let mut fields = Fields::default();
        fields.push(b"content-type", b"application/grpc");
        fields.push(b"grpc-status", self.grpc_status().as_bytes());
        // The texts hold nothing that would have to be percent-encoded.
        fields.push(b"grpc-message", self.public().as_bytes());
        fields.push(FAILURE_FIELD.as_bytes(), self.label().as_bytes());
        (ResponseHead { status: 200, fields, body: Body::Empty, ..ResponseHead::default() }, Vec::new())
    }

    /// As gRPC maps HTTP's statuses, except that what may be tried again is UNAVAILABLE.
    fn grpc_status(&self) -> &'static str {
        const INVALID_ARGUMENT: &str = "3";
        const DEADLINE_EXCEEDED: &str = "4";
        const INTERNAL: &str = "13";
        const UNAVAILABLE: &str = "14";
        match self.status() {
            400 | 405 | 408 | 414 | 431 | 505 => INVALID_ARGUMENT,
            504 => DEADLINE_EXCEEDED,
            502 | 503 => UNAVAILABLE,
            _ => INTERNAL,
        }
    }
}

impl Behind {
    fn side(self) -> Side {
        match self {
            Self::Upstream => Side::Upstream,
            Self::Tunnel => Side::Tunnel,
        }
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upstream => "the upstream",
            Self::Tunnel => "the developer",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Relay => "relay",
            Self::Tunnel => "tunnel",
            Self::Upstream => "upstream",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whose_fault_it_was_in_one_line_of_json() {
        let (head, body) = Failure::Connect("10.0.0.7:80: connection refused".into()).render();
        assert_eq!(head.status, 502);
        assert_eq!(head.fields.first(FAILURE_FIELD), Some(&b"upstream_unreachable"[..]));
        let text = String::from_utf8(body).unwrap();
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (told["side"].as_str(), told["failure"].as_str()),
            (Some("upstream"), Some("upstream_unreachable"))
        );
        assert!(text.ends_with('\n') && text.lines().count() == 1);
        assert!(!text.contains("10.0.0.7"), "no address of the inside: {text}");
        assert_eq!(head.check(), Ok(()));
    }
}
