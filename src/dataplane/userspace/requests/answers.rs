//! What a client is answered where no endpoint does. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};

/// Why a request has no answer of an endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is none, or none takes a connection.
    NoEndpoint,
    /// No endpoint took a connection in the time there was.
    Slow,
    /// This process may open no more connections.
    Full,
    /// The endpoint broke off, or what it said was no HTTP. It may have seen the request.
    Broken,
    /// The request is none that could be passed on.
    Malformed(Malformed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// HTTP/1.1 needs one Host, no more and no less (RFC 9112 3.2).
    Host,
    /// Transfer-Encoding other than `chunked` (RFC 9112 6.1).
    Encoding,
    /// What should be the body is none, or it broke off.
    Body,
    /// CONNECT asks this proxy for a tunnel to anywhere.
    Connect,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Refusal::NoEndpoint | Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Slow => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Broken => StatusCode::BAD_GATEWAY,
            Refusal::Malformed(Malformed::Host | Malformed::Body) => StatusCode::BAD_REQUEST,
            Refusal::Malformed(Malformed::Encoding | Malformed::Connect) => {
                StatusCode::NOT_IMPLEMENTED
            }
        }
    }

    fn text(self) -> &'static str {
        match self {
            Refusal::NoEndpoint => "no endpoint takes a connection",
            Refusal::Slow => "no endpoint takes a connection in time",
            Refusal::Full => "too many connections are open",
            Refusal::Broken => "the endpoint broke off",
            Refusal::Malformed(Malformed::Host) => "there must be one Host",
            Refusal::Malformed(Malformed::Encoding) => {
                "Transfer-Encoding may be nothing but chunked"
            }
            Refusal::Malformed(Malformed::Body) => "the body is malformed",
            Refusal::Malformed(Malformed::Connect) => "CONNECT is not passed on",
        }
    }
}

/// How a client expects to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Http,
    Grpc,
}

impl Dialect {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc && request.version() == Version::HTTP_2 { Dialect::Grpc } else { Dialect::Http }
    }
}

/// gRPC's has no body, and its status in the head (gRPC over HTTP/2, "Trailers-Only").
pub(super) fn answer(refusal: Refusal, dialect: Dialect) -> Response<Bytes> {
    const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
    if dialect == Dialect::Grpc {
        let mut answer = Response::new(Bytes::new());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", UNAVAILABLE);
        headers.insert("grpc-message", HeaderValue::from_static(refusal.text()));
        return answer;
    }
    let mut answer = Response::new(Bytes::from_static(refusal.text().as_bytes()));
    *answer.status_mut() = refusal.status();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    // Where such a request ends is not known for certain.
    if matches!(refusal, Refusal::Malformed(_)) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_status() {
        let table = [
            (Refusal::NoEndpoint, 503),
            (Refusal::Full, 503),
            (Refusal::Slow, 504),
            (Refusal::Broken, 502),
            (Refusal::Malformed(Malformed::Host), 400),
            (Refusal::Malformed(Malformed::Body), 400),
            (Refusal::Malformed(Malformed::Encoding), 501),
            (Refusal::Malformed(Malformed::Connect), 501),
        ];
        for (refusal, status) in table {
            let answer = answer(refusal, Dialect::Http);
            assert_eq!(answer.status(), status, "{refusal:?}");
            assert_eq!(answer.headers().contains_key(CONNECTION), matches!(status, 400 | 501));
        }
    }

    #[test]
    fn grpc_is_refused_in_its_own_words() {
        let request = |kind: &str, version| {
            let request = Request::builder().version(version).header(CONTENT_TYPE, kind);
            Dialect::of(&request.body(()).unwrap())
        };
        assert_eq!(request("application/grpc+proto", Version::HTTP_2), Dialect::Grpc);
        assert_eq!(request("application/grpc", Version::HTTP_11), Dialect::Http);
        assert_eq!(request("application/json", Version::HTTP_2), Dialect::Http);
        let answer = answer(Refusal::NoEndpoint, Dialect::Grpc);
        assert_eq!(
            (answer.status(), answer.headers()["grpc-status"].as_bytes()),
            (200.try_into().unwrap(), &b"14"[..])
        );
        assert!(answer.body().is_empty());
    }
}
