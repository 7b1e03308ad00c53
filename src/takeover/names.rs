//! Which chains of the iptables tables are kube-proxy's. PURE.
//!
//! By name, from the list of what kube-proxy has made since it uses iptables, and never by the
//! prefix `KUBE-` alone: network policies (kube-router, and what embeds it: `KUBE-ROUTER-`,
//! `KUBE-POD-FW-`, `KUBE-NWPLCY-`) and host ports (CRI-O: `KUBE-HOSTPORTS`, `KUBE-HP-`) bear it
//! too, and go on being needed.
//!
//! kubelet's stay: `KUBE-KUBELET-CANARY` and `KUBE-IPTABLES-HINT` are how it and others learn about
//! iptables, and `KUBE-FIREWALL`, of which kube-proxy makes the same copy, keeps packets from
//! outside away from 127.0.0.0/8. What older kubelets made for kube-proxy's use (`KUBE-MARK-MASQ`,
//! `KUBE-MARK-DROP`, `KUBE-POSTROUTING`) counts as kube-proxy's: kubelet's own rules do not lead
//! there, and where somebody else's do, the chain is kept for them (see `removal`).

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Chains that kube-proxy's own rules in base chains jump to.
const ENTRIES: [&str; 14] = [
    // Modes iptables and ipvs.
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    // Mode ipvs.
    "KUBE-NODE-PORT",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    // Mode userspace, up to Kubernetes 1.25.
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
    "KUBE-NODEPORT-NON-LOCAL",
];

/// Chains that only kube-proxy's own chains lead to, or nothing.
const INNER: [&str; 5] = [
    MARK_FOR_MASQUERADE,
    "KUBE-MARK-DROP",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-PROXY-CANARY",
];

/// Chains of single services and endpoints: a hash follows.
const HASHED: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-"];

/// Sets a mark, which [`MASQUERADES`] acts upon.
pub const MARK_FOR_MASQUERADE: &str = "KUBE-MARK-MASQ";
pub const MASQUERADES: &str = "KUBE-POSTROUTING";

/// The name of kube-proxy's own tables, in mode nftables.
pub const OWN_TABLE: &str = "kube-proxy";

/// Tables that iptables programs keep, as far as kube-proxy writes to them.
pub const IPTABLES: [&str; 4] = ["nat", "filter", "mangle", "raw"];

pub fn is_kube_proxys(chain: &str) -> bool {
    let hashed = |prefix: &str| chain.strip_prefix(prefix).is_some_and(|hash| !hash.is_empty());
    is_entry(chain) || INNER.contains(&chain) || HASHED.into_iter().any(hashed)
}

/// Whether a rule of a base chain that jumps there is kube-proxy's as well.
pub fn is_entry(chain: &str) -> bool {
    ENTRIES.contains(&chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("KUBE-SERVICES")]
    #[case("KUBE-PROXY-CANARY")]
    #[case("KUBE-MARK-MASQ")]
    #[case("KUBE-SVC-ERIFXISQEP7F7OF4")]
    #[case("KUBE-SEP-2ZBT6S3ZKPAEUQ7K")]
    #[case("KUBE-IPVS-OUT-FILTER")]
    fn kube_proxys(#[case] chain: &str) {
        assert!(is_kube_proxys(chain));
    }

    #[rstest]
    #[case("KUBE-KUBELET-CANARY")]
    #[case("KUBE-IPTABLES-HINT")]
    #[case("KUBE-FIREWALL")]
    #[case("KUBE-ROUTER-INPUT")]
    #[case("KUBE-NWPLCY-DEFAULT")]
    #[case("KUBE-POD-FW-ABCDEFGHIJKLMNOP")]
    #[case("KUBE-HOSTPORTS")]
    #[case("KUBE-HP-ABCDEFGHIJKLMNOP")]
    #[case("KUBE-SVC-")]
    #[case("KUBE-SERVICES-MINE")]
    #[case("kube-services")]
    #[case("INPUT")]
    fn others(#[case] chain: &str) {
        assert!(!is_kube_proxys(chain));
    }
}
