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
