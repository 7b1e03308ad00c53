//! etcd, kube-apiserver and vipd in one network namespace.
//!
//! In: objects for the API. Out: what the kernel and vipd's log say.
//! Never: a server that outlives its case.

use crate::api::collection_of;
use crate::control_plane::{self, Authorization, ControlPlane, Settings};
use crate::examples;
use crate::netns::Netns;
use crate::runner;
use serde_json::json;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than the longest pause of vipd, with its jitter.
const SOON: Duration = Duration::from_secs(45);
const FIRST: &str = "token-of-vipd-1";
const SECOND: &str = "token-of-vipd-2";

/// Who the binding of `examples/kubernetes/rbac.yaml` names.
const VIPD: &str = "system:serviceaccount:kube-system:vipd";

/// Whether the servers are there.
pub fn peers() -> Result<(), String> {
    control_plane::are_built(&[
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ])
}

pub struct World {
    pub node: Netns,
    directory: TempDir,
    pub plane: ControlPlane,
    token: &'static str,
    vipd: Option<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut vipd) = self.vipd.take() {
            let _ = vipd.kill();
            let _ = vipd.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- vipd\n{}", self.log());
        }
        runner::remove(&self.node);
    }
}

impl World {
    pub fn start(authorization: Authorization) -> Self {
        let node = runner::namespace();
        node.sh("ip link set lo up");
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings { authorization, tokens: tokens(FIRST), ..Settings::default() };
        let plane = ControlPlane::start(&node, directory.path(), settings);
        Self { node, directory, plane, token: FIRST, vipd: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Only the new one is known to the server that is started next.
    pub fn rotate_token(&mut self) {
        self.token = SECOND;
        self.plane.settings.tokens = tokens(SECOND);
        fs::write(self.path("token"), SECOND).expect("it can be written");
    }

    /// ServiceAccount, ClusterRole and binding, as `kubectl apply` would.
    pub fn apply_rights(&self, text: &str) {
        for (object, document) in examples::documents(text) {
            self.plane.send("POST", &collection_of(&object), ("application/yaml", document));
        }
    }

    /// Starts vipd.
    pub fn run(&mut self, flags: &[&str]) {
        let at = self.directory.path();
        fs::write(at.join("token"), self.token).expect("it can be written");
        let user = json!({"tokenFile": at.join("token")});
        let kubeconfig = self.plane.kubeconfig("kubeconfig", &user);
        let log = File::create(at.join("vipd.log")).expect("it can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        command
            .arg("run")
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--hostname-override=node-a", "--cluster-cidr=10.1.0.0/16"])
            .arg("--admin-socket")
            .arg(at.join("admin.sock"))
            .args(flags)
            .stdin(Stdio::null())
            .stderr(log);
        self.vipd = Some(self.node.enter(|| command.spawn()).expect("vipd can be run"));
    }

    /// Starts vipd with kubeadm's command line for kube-proxy. `text`: the file, for a kubeconfig.
    /// Returns where both are.
    pub fn run_with_file(&mut self, text: impl Fn(&str) -> String) -> (PathBuf, String) {
        // For its kubeconfig.
        self.run(&[]);
        let mut first = self.vipd.take().expect("it was started");
        first.kill().and_then(|()| first.wait()).expect("it was running");
        let (path, kubeconfig) = (self.path("config.conf"), self.path("kubeconfig"));
        let kubeconfig = kubeconfig.display().to_string();
        fs::write(&path, text(&kubeconfig)).expect("it can be written");
        let log = File::create(self.path("vipd.log")).expect("it can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        command
            .arg(format!("--config={}", path.display()))
            .arg("--hostname-override=node-a")
            .env("VIPD_ADMIN_SOCKET", self.path("admin.sock"))
            .stdin(Stdio::null())
            .stderr(log);
        self.vipd = Some(self.node.enter(|| command.spawn()).expect("vipd can be run"));
        (path, kubeconfig)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("vipd.log")).unwrap_or_default()
    }

    /// What an inspection command prints.
    pub fn said(&self, words: &str) -> String {
        let socket = self.path("admin.sock");
        let vipd = env!("CARGO_BIN_EXE_vipd");
        self.node.sh(&format!("{vipd} {words} --admin-socket {}", socket.display()))
    }

    /// Whether a set or map of the table has an element with these words.
    pub fn holds(&self, set: &str, words: &str) -> bool {
        let said = self
            .node
            .try_sh(&format!("nft list set inet vipd {set} || nft list map inet vipd {set}"));
        said.code == 0 && said.out.contains(words)
    }

    #[track_caller]
    pub fn soon(&self, what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !is() {
            assert!(Instant::now() < end, "not within {SOON:?}: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn tokens(vipd: &str) -> String {
    format!("{vipd},{VIPD},vipd\n")
}
