//! Name, kernel and privileges.

use std::fmt;

/// The host's name as Kubernetes names nodes: trimmed, lower case.
pub fn hostname() -> String {
    node_name(&rustix::system::uname().nodename().to_string_lossy())
}

fn node_name(nodename: &str) -> String {
    nodename.trim().to_lowercase()
}

/// The running kernel's version, as far as features depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl KernelVersion {
    /// Of a release like `6.12.3-amd64` or `6.12-rc1`. What is not understood counts as 0: no
    /// feature is used that may not be there.
    pub fn parse(release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|text| text.parse().ok());
        match (next(), next()) {
            (Some(major), Some(minor)) => Self { major, minor },
            _ => Self { major: 0, minor: 0 },
        }
    }

    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The running kernel's version.
pub fn kernel() -> KernelVersion {
    KernelVersion::parse(&rustix::system::uname().release().to_string_lossy())
}

/// Whether the calling thread may configure the network: CAP_NET_ADMIN in its effective set. It
/// counts in its own user namespace, so network namespaces of another owner stay closed.
pub fn has_net_admin() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("6.12.3-amd64", 6, 12)]
    #[case("6.12-rc1", 6, 12)]
    #[case("5.15.0-1042-aws", 5, 15)]
    #[case("10.0", 10, 0)]
    #[case("6", 0, 0)]
    #[case("", 0, 0)]
    #[case("next", 0, 0)]
    #[case("6.x", 0, 0)]
    #[case("99999999999.1", 0, 0)]
    fn releases(#[case] release: &str, #[case] major: u32, #[case] minor: u32) {
        assert_eq!(KernelVersion::parse(release), KernelVersion { major, minor });
    }

    #[test]
    fn versions_compare_by_number() {
        let version = KernelVersion::parse("6.12.0");
        assert!(version.at_least(6, 12) && version.at_least(6, 9) && version.at_least(5, 15));
        assert!(!version.at_least(6, 13) && !version.at_least(7, 0));
    }

    #[test]
    fn this_kernel_is_understood() {
        assert!(kernel().at_least(1, 0));
    }

    #[test]
    fn names_are_as_kubernetes_writes_them() {
        assert_eq!(node_name(" Worker-1.Example\n"), "worker-1.example");
        assert!(!hostname().is_empty());
    }
}
