//! The cluster: a node with the control plane, and a router that it is connected to.
//!
//! ```text
//! router 172.31.32.1 ── 172.31.32.100 minion-1 ── pods 172.17.0.2 …
//!                       etcd, API server, controller manager, scheduler, kubelet stand-in, vipd
//! ```
//! In: built programs. Out: processes that end with their owner.
//! Never: another namespace than its own.

use super::Result;
use super::control_plane::{self, Authorization, ControlPlane, Settings};
use super::kubelet::{self, Kubelet, Stops};
use super::netns::Netns;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const NODE: &str = "minion-1";
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 32, 100);
pub const PODS: &str = "172.17.0.0/24";
/// After a slice calls a pod terminating, it refuses.
pub const POD_STOPS_AFTER: Duration = Duration::from_millis(20);

const PARTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

pub struct Cluster {
    pub node: Netns,
    /// Files of all parts, in a file system that ends with the cluster.
    pub folder: PathBuf,
    pub vipd_binary: PathBuf,
    // Dropped in this order.
    vipd: Option<Child>,
    kubelet: Option<Kubelet>,
    plane: ControlPlane,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut vipd) = self.vipd.take() {
            // Both say at worst that it has ended already.
            let _ = vipd.kill();
            let _ = vipd.wait();
        }
    }
}

/// Whether all that it starts is there.
pub fn is_all_built() -> Result<()> {
    control_plane::are_built(&PARTS)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file()) {
        control_plane::are_built(&["kubectl"])?;
    }
    vipd_binary().map(|_| ())
}

impl Cluster {
    /// Links, and a control plane that answers. Pods are given to nobody yet.
    pub fn start() -> Result<Self> {
        let folder = PathBuf::from("/run/demo-cluster");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let node = Netns::add(NODE);
        let router = Netns::add("router");
        node.ip(&[
            "link set lo up".to_owned(),
            format!("link add eth0 type veth peer name eth0 netns {}", router.name()),
            format!("addr add {ADDRESS}/20 dev eth0"),
            "link set eth0 up".to_owned(),
            "route add default via 172.31.32.1".to_owned(),
        ]);
        router.ip(&[
            "link set lo up".to_owned(),
            "addr add 172.31.32.1/20 dev eth0".to_owned(),
            "link set eth0 up".to_owned(),
        ]);
        node.sh("sysctl -qw net.ipv4.ip_forward=1");
        let settings = Settings { authorization: Authorization::Rbac, ..Settings::default() };
        let mut plane = ControlPlane::start(&node, &folder, settings);
        plane.start_controllers();
        let vipd_binary = vipd_binary()?;
        Ok(Self { node, folder, vipd_binary, vipd: None, kubelet: None, plane })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.plane.admin_kubeconfig()
    }

    pub fn start_kubelet(&mut self) -> Result<()> {
        let settings = kubelet::Settings {
            name: NODE.to_owned(),
            address: ADDRESS,
            pods: PODS.parse().expect("a network"),
            kubeconfig: self.kubeconfig(),
            stops: Stops::AfterSlice(POD_STOPS_AFTER),
        };
        let started = Kubelet::start(&self.node, settings);
        self.kubelet = Some(started.map_err(|error| format!("the kubelet stand-in: {error}"))?);
        Ok(())
    }

    /// The namespace of a pod.
    pub fn pod(&self, name: &str) -> Result<Netns> {
        let pod = self.kubelet.as_ref().and_then(|kubelet| kubelet.pod(name));
        pod.ok_or_else(|| format!("pod {name} does not run"))
    }

    /// A kubeconfig file of whom the token in this file names.
    pub fn kubeconfig_of(&self, token: &Path) -> PathBuf {
        self.plane.kubeconfig("vipd.kubeconfig", &serde_json::json!({"tokenFile": token}))
    }

    /// With the arguments of its DaemonSet; returns them as a line.
    pub fn start_vipd(&mut self, config: &Path) -> Result<String> {
        let arguments = [
            "run".to_owned(),
            format!("--config={}", config.display()),
            format!("--hostname-override={NODE}"),
        ];
        let log = self.folder.join("vipd.log");
        let make = |error: std::io::Error| format!("{}: {error}", log.display());
        let errors = File::create(&log).map_err(make)?;
        let out = errors.try_clone().map_err(make)?;
        let mut command = Command::new(&self.vipd_binary);
        command.args(&arguments).stdin(Stdio::null()).stdout(out).stderr(errors);
        let child = self.node.enter(|| command.spawn());
        self.vipd = Some(child.map_err(|error| format!("vipd: {error}"))?);
        Ok(format!("vipd {}", arguments.join(" ")))
    }

    /// What may explain a failure.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(Ok(Some(status))) = self.vipd.as_mut().map(Child::try_wait) {
            text += &format!("vipd ended ({status})\n");
        }
        for name in ["vipd", "kube-controller-manager", "kube-scheduler", "kube-apiserver"] {
            let log = self.folder.join(format!("{name}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
            text += &format!("--- the last of {name}\n  {last}\n");
        }
        let problems = self.kubelet.as_ref().map(Kubelet::problems).unwrap_or_default();
        text += &format!("--- problems of the kubelet stand-in\n  {}\n", problems.join("\n  "));
        text
    }
}

/// The binary under test: `VIPD_BIN`, or the one that was built with this program.
fn vipd_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VIPD_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let beside = own.parent().and_then(Path::parent).map(|folder| folder.join("vipd"));
    beside.filter(|path| path.exists()).ok_or_else(|| {
        "vipd is not built: cargo build --release --bin vipd, or set VIPD_BIN".to_owned()
    })
}
