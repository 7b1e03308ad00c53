//! What annotations ask of a Service's relay.

/// `vipd.io/balancer`: which endpoint a connection goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Balancer {
    Random,
    RoundRobin,
    #[default]
    LeastConnections,
    Maglev,
}

/// `vipd.io/proxy-protocol`: how an endpoint learns the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// `vipd.io/requests`: what is given to an endpoint as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Unit {
    #[default]
    Connections,
    /// Of HTTP, on ports whose [`AppProtocol`] says how it is spoken.
    Requests,
}

/// How HTTP is spoken without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1 and 1.0 (RFC 9112).
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 3.3).
    H2c,
}

impl HttpVersion {
    pub fn name(self) -> &'static str {
        match self {
            HttpVersion::Http1 => "HTTP/1.1",
            HttpVersion::H2c => "HTTP/2",
        }
    }
}

/// `ports[].appProtocol` of a Service, as far as it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    #[default]
    Unset,
    Http,
    /// `kubernetes.io/h2c` (KEP-3726)
    H2c,
    Grpc,
    Https,
    Other,
}

impl AppProtocol {
    /// Names without a prefix are IANA's service names, whose case means nothing (RFC 6335 5.1).
    pub fn of(text: &str) -> Self {
        let named = [
            ("", AppProtocol::Unset),
            ("http", AppProtocol::Http),
            ("grpc", AppProtocol::Grpc),
            ("https", AppProtocol::Https),
        ];
        let found = named.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        match found {
            Some((_, protocol)) => protocol,
            None if text == "kubernetes.io/h2c" => AppProtocol::H2c,
            None => AppProtocol::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_protocols_are_known_by_their_names() {
        let table = [
            ("", AppProtocol::Unset),
            ("http", AppProtocol::Http),
            ("HTTP", AppProtocol::Http),
            ("kubernetes.io/h2c", AppProtocol::H2c),
            ("grpc", AppProtocol::Grpc),
            ("https", AppProtocol::Https),
            ("kubernetes.io/wss", AppProtocol::Other),
            ("h2c", AppProtocol::Other),
        ];
        for (text, protocol) in table {
            assert_eq!(AppProtocol::of(text), protocol, "{text}");
        }
    }
}
