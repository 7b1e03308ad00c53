//! The proxies that are compared, as processes on a node. EDGE.
//!
//! In: a node's namespace, a kubeconfig. Out: a [`Daemon`], and when the kernel holds everything.
//! Never: a setting that makes one of them do less than the other.

use crate::Outcome;
use crate::control_plane::part;
use crate::daemon::{Daemon, Rest};
use crate::generate::{NODES, POD_RANGE};
use crate::nft::Census;
use crate::plane::Plane;
use crate::world::Namespace;
use serde_json::json;
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// `linux/netfilter.h`
const NFPROTO_IPV4: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Vipd,
    /// kube-proxy in nftables mode with `nftables.minSyncPeriod` of 1 ms: as soon as it can.
    Soonest,
    /// As it comes: one sync a second.
    Defaults,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Vipd => "vipd",
            Peer::Soonest => "kube-proxy, minSyncPeriod 1 ms",
            Peer::Defaults => "kube-proxy, its defaults",
        }
    }

    /// What the kernel says it holds for this proxy.
    pub fn census(self, node: &Namespace) -> Outcome<Census> {
        match self {
            Peer::Vipd => Census::open(node, "vipd"),
            Peer::Soonest | Peer::Defaults => Census::of_family(node, "kube-proxy", NFPROTO_IPV4),
        }
    }

    /// Elements that it cannot do with less of: services and endpoints here, there services in
    /// `service-ips` and in `cluster-ips` (endpoints are rules).
    pub fn least(self, services: usize) -> u64 {
        match self {
            Peer::Vipd => 3 * services as u64,
            Peer::Soonest | Peer::Defaults => 2 * services as u64,
        }
    }

    pub fn start(self, node: &Namespace, plane: &Plane) -> Outcome<Daemon> {
        let files = tempfile::Builder::new().prefix("proxy-").tempdir_in(plane.directory())?;
        let at = files.path();
        let mut command = match self {
            Peer::Vipd => vipd(plane, at),
            Peer::Soonest => kube_proxy(plane, at, Some("1ms"))?,
            Peer::Defaults => kube_proxy(plane, at, None)?,
        };
        command.stderr(File::create(at.join("log"))?);
        Daemon::spawn(node, &mut command, files)
    }

    /// Waits until everything is programmed, and nothing more comes.
    pub fn settled(self, daemon: &mut Daemon, node: &Namespace, services: usize) -> Outcome<Rest> {
        let settled = daemon.settled(&mut self.census(node)?, self.least(services));
        settled.map_err(|error| {
            format!("{}: {error}; it said last:\n{}", self.name(), said(daemon)).into()
        })
    }
}

/// The last lines of its log.
pub fn said(daemon: &Daemon) -> String {
    const LINES: usize = 5;
    let log = std::fs::read_to_string(daemon.files().join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn vipd(plane: &Plane, at: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command
        .arg("run")
        .arg("--kubeconfig")
        .arg(&plane.kubeconfig)
        .args(["--hostname-override", NODES[0], "--cluster-cidr", POD_RANGE])
        .args(["--conntrack-max-per-core", "0", "--log-level", "warn"])
        .arg("--admin-socket")
        .arg(at.join("admin.sock"));
    command
}

fn kube_proxy(plane: &Plane, at: &Path, min_sync: Option<&str>) -> Outcome<Command> {
    let mut nftables = json!({});
    if let Some(period) = min_sync {
        nftables["minSyncPeriod"] = json!(period);
    }
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "nftables": nftables, "hostnameOverride": NODES[0],
        "clientConnection": {"kubeconfig": plane.kubeconfig},
        "detectLocalMode": "ClusterCIDR", "clusterCIDR": POD_RANGE,
        // The table of connections is the machine's, and its size the first namespace's to set.
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    let path = at.join("config");
    std::fs::write(&path, config.to_string())?;
    let mut command = Command::new(part("kube-proxy"));
    command.arg("--config").arg(path);
    Ok(command)
}
