//! Readers of single flag values.

use ipnet::IpNet;
use std::path::{Path, PathBuf};

/// Room that a socket's temporary name needs beside its directory's.
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
    let expected = || "expected a CIDR such as 10.254.0.0/16 or fd00:254::/108".to_owned();
    text.trim().parse().map_err(|_| expected())
}

/// A whole interface name, or the start of one.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let named = (1..=INTERFACE_NAME_MAX).contains(&text.len())
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

pub(super) fn node_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_lowercase();
    let expected = "expected the name of this machine's Node object";
    if name.is_empty() { Err(expected.into()) } else { Ok(name) }
}
