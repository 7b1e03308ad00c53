//! Readers of single flag values.

use ipnet::IpNet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Room that the names of others beside it need: a temporary one, and the one of the handover.
const SOCKET_PATH_MAX: usize = 90;

/// Linux: IFNAMSIZ is 16 with the closing zero.
const INTERFACE_NAME_MAX: usize = 15;

/// The words that Go's `strconv.ParseBool` reads, because pflag does.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// A number of things; the kernel and KubeProxyConfiguration have 31 bits for it.
pub(super) fn count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= i32::MAX.cast_unsigned());
    count.ok_or_else(|| format!("expected a number from 0 to {}", i32::MAX))
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    let expected = "expected a CIDR such as 10.254.0.0/16 or fd00:254::/108";
    net(text.trim()).ok_or_else(|| expected.to_owned())
}

/// With leading zeros as Kubernetes reads them: 010.0.0.1 is 10.0.0.1.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if !text.contains('.') || text.contains(':') {
        return text.parse().ok();
    }
    let decimal = |octet: &str| match octet.bytes().all(|byte| byte.is_ascii_digit()) {
        true => octet.parse::<u8>().ok().map(|octet| octet.to_string()),
        false => None,
    };
    text.split('.').map(decimal).collect::<Option<Vec<_>>>()?.join(".").parse().ok()
}

/// A CIDR, strictly written but for leading zeros.
pub(super) fn net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(ip(address)?, length.parse().ok().filter(|_| digits)?).ok()
}

/// An address; empty: the default.
pub(super) fn address_or_none(text: &str) -> Result<String, String> {
    match text.is_empty() || ip(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err("expected an address such as 0.0.0.0 or ::".into()),
    }
}

/// Of kube-proxy's masqueradeBit.
pub(super) fn bit(text: &str) -> Result<i64, String> {
    text.parse()
        .ok()
        .filter(|bit| (0..=31).contains(bit))
        .ok_or("expected a number from 0 to 31".into())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port, or 0 for none".into())
}

/// A file; empty: none.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// A whole interface name, or the start of one; empty: none.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let named = (0..=INTERFACE_NAME_MAX).contains(&text.len())
        && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    let expected = "expected 1 to 15 bytes without a slash or a space, as in `ip link`";
    if named { Ok(text.to_owned()) } else { Err(expected.into()) }
}

/// `sockaddr_un` holds 108 bytes.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() && path.file_name().is_some() && text.len() <= SOCKET_PATH_MAX {
        Ok(path.to_owned())
    } else {
        Err(format!("expected an absolute path of at most {SOCKET_PATH_MAX} bytes"))
    }
}

/// Empty: the host's name. Nothing but spaces is a mistake.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_lowercase();
    let expected = "expected the name of this machine's Node object";
    if name.is_empty() && !text.is_empty() { Err(expected.into()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_kubernetes_reads_them() {
        for (text, wanted) in [("10.0.0.1", "10.0.0.1"), ("010.0.00.1", "10.0.0.1"), ("::1", "::1")]
        {
            assert_eq!(ip(text), wanted.parse().ok(), "{text}");
        }
        for wrong in ["", "10.0.0", "10.0.0.256", "10.0.0.1 ", "+1.0.0.1", "fe80::1%lo", "node"] {
            assert_eq!(ip(wrong), None, "{wrong}");
        }
        assert_eq!(net("010.0.0.0/8"), "10.0.0.0/8".parse().ok());
        for wrong in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", " 10.0.0.0/8"] {
            assert_eq!(net(wrong), None, "{wrong}");
        }
    }
}
