//! Addresses at which the process itself is asked, with kube-proxy's flags and ports.

use super::{Error, value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One of them.
pub(super) struct Endpoint {
    flag: &'static str,
    pub port: u16,
    default: [IpAddr; 2],
}

pub(super) const HEALTHZ: Endpoint = Endpoint {
    flag: "--healthz-bind-address",
    port: 10_256,
    default: [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
};

pub(super) const METRICS: Endpoint = Endpoint {
    flag: "--metrics-bind-address",
    port: 10_249,
    default: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
};

/// What is given, or the default.
pub(super) fn addresses(
    endpoint: &Endpoint,
    given: Option<String>,
) -> Result<Vec<SocketAddr>, Error> {
    let Some(text) = given else {
        return Ok(endpoint.default.map(|ip| SocketAddr::new(ip, endpoint.port)).into());
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let alone = || value::ip(&text).map(|ip| SocketAddr::new(ip, endpoint.port));
    match socket(&text).or_else(alone) {
        // Of Go's sockets one that listens at all addresses has both families, whichever is named
        // (`favoriteAddrFamily`).
        Some(at) if at.port() > 0 && at.ip().is_unspecified() => {
            let other: IpAddr = match at {
                SocketAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED.into(),
            };
            Ok(vec![at, SocketAddr::new(other, at.port())])
        }
        Some(at) if at.port() > 0 => Ok(vec![at]),
        _ => Err(Error::Value {
            flag: endpoint.flag,
            value: text,
            reason: "expected an address such as 0.0.0.0, 127.0.0.1:10249 or [::]:10256",
        }),
    }
}

/// `127.0.0.1:80`, `[::1]:80`.
fn socket(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let inside = host.strip_prefix('[').map(|host| host.strip_suffix(']'));
    let host = match inside {
        Some(host) => host?,
        None => Some(host).filter(|host| !host.contains(':'))?,
    };
    Some(SocketAddr::new(value::ip(host)?, port.parse().ok()?))
}

/// What the deprecated flags of a port make of an address: 0 is nowhere, and the port counts where the
/// address has none. Upstream's default has one.
pub(super) fn with_port(given: Option<String>, port: Option<u16>) -> Option<String> {
    match (given, port) {
        (_, Some(0)) => Some(String::new()),
        (Some(text), Some(port)) => match value::ip(&text) {
            Some(ip) => Some(SocketAddr::new(ip, port).to_string()),
            None => Some(text),
        },
        (given, _) => given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: Option<&str>) -> Result<Vec<String>, String> {
        let found = addresses(&HEALTHZ, given.map(str::to_owned));
        let texts = found.map(|all| all.iter().map(ToString::to_string).collect());
        texts.map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_a_default_or_none() {
        assert_eq!(read(None).unwrap(), ["0.0.0.0:10256", "[::]:10256"]);
        assert_eq!(read(Some("")).unwrap(), [] as [&str; 0]);
        for (given, wanted) in [
            ("127.0.0.1", "127.0.0.1:10256"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("::1", "[::1]:10256"),
            ("[fd00::1]:7", "[fd00::1]:7"),
        ] {
            assert_eq!(read(Some(given)).unwrap(), [wanted], "{given}");
        }
        assert_eq!(read(Some("010.0.0.1:7")).unwrap(), ["10.0.0.1:7"]);
        assert_eq!(read(Some("[::]:7")).unwrap(), ["[::]:7", "0.0.0.0:7"]);
        assert_eq!(read(Some("0.0.0.0:7")).unwrap(), ["0.0.0.0:7", "[::]:7"]);
        for wrong in [
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:0",
            ":10256",
            "127.0.0.1:99999",
            "[::]",
            "::1:",
            "fe80::1%lo",
        ] {
            let error = read(Some(wrong)).unwrap_err();
            assert!(error.contains("--healthz-bind-address") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_port_of_the_deprecated_flags() {
        for (given, port, wanted) in [
            (None, None, None),
            (None, Some(99), None),
            (None, Some(0), Some("")),
            (Some("1.2.3.4"), Some(99), Some("1.2.3.4:99")),
            (Some("::1"), Some(99), Some("[::1]:99")),
            (Some("1.2.3.4:5"), Some(99), Some("1.2.3.4:5")),
            (Some("1.2.3.4:5"), Some(0), Some("")),
        ] {
            let found = with_port(given.map(str::to_owned), port);
            assert_eq!(found.as_deref(), wanted, "{given:?} {port:?}");
        }
    }
}
