//! etcd, kube-apiserver and vipd in one network namespace.
//!
//! In: objects for the API. Out: what the kernel and vipd's log say.
//! Never: a server that outlives its case.

use crate::netns::Netns;
use crate::runner;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than the longest pause of vipd, with its jitter.
const SOON: Duration = Duration::from_secs(45);
const READY: Duration = Duration::from_secs(90);

const ADMIN: &str = "admin-of-the-test";
const FIRST: &str = "token-of-vipd-1";
const SECOND: &str = "token-of-vipd-2";

/// Who the binding of `examples/kubernetes/rbac.yaml` names.
const VIPD: &str = "system:serviceaccount:kube-system:vipd";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    AlwaysAllow,
    Rbac,
}

fn directory() -> PathBuf {
    let var =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    var("PEERS_DIR").or_else(|| Some(cache()?.join("vipd-peers"))).unwrap_or_default()
}

/// Whether the servers are there.
pub fn peers() -> Result<(), String> {
    for name in ["etcd", "kube-apiserver"] {
        let path = directory().join(name);
        if !path.exists() {
            return Err(format!(
                "{} is missing: tests/cluster/build-peers builds it",
                path.display()
            ));
        }
    }
    Ok(())
}

pub struct World {
    pub node: Netns,
    directory: TempDir,
    authorization: Authorization,
    token: &'static str,
    etcd: Child,
    server: Option<Child>,
    vipd: Option<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        let servers = [self.vipd.take(), self.server.take()].into_iter().flatten();
        for mut child in servers {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
        if std::thread::panicking() {
            eprintln!("--- vipd\n{}", self.log());
            let said = fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            eprintln!("--- kube-apiserver, the last first\n{}", last.join("\n"));
        }
        runner::remove(&self.node);
    }
}

impl World {
    pub fn start(authorization: Authorization) -> Self {
        let node = runner::namespace();
        node.sh("ip link set lo up");
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        fs::write(at.join("tokens.csv"), tokens(FIRST)).expect("it can be written");
        let key = at.join("sa.key");
        node.sh(&format!("openssl genrsa -out {} 2048 2>/dev/null", key.display()));
        let etcd = spawn(
            &node,
            at,
            "etcd",
            &[
                "--data-dir".into(),
                at.join("etcd").display().to_string(),
                "--unsafe-no-fsync".into(),
                "--log-level=error".into(),
            ],
        );
        let mut world =
            Self { node, directory, authorization, token: FIRST, etcd, server: None, vipd: None };
        world.start_server();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn start_server(&mut self) {
        let at = self.directory.path();
        let file = |name: &str| at.join(name).display().to_string();
        let mode = match self.authorization {
            Authorization::AlwaysAllow => "AlwaysAllow",
            Authorization::Rbac => "RBAC",
        };
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=6443".into(),
            "--advertise-address=192.0.2.1".into(),
            "--endpoint-reconciler-type=none".into(),
            format!("--cert-dir={}", file("certs")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--authorization-mode={mode}"),
            "--service-account-issuer=https://test.invalid".into(),
            format!("--service-account-key-file={}", file("sa.key")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.254.0.0/16".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        self.server = Some(spawn(&self.node, at, "kube-apiserver", &arguments));
        let end = Instant::now() + READY;
        while !self.is_ready() {
            assert!(Instant::now() < end, "the API server is not ready after {READY:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn is_ready(&self) -> bool {
        let ask = |path: &str| {
            let said = self.node.try_sh(&format!("{} https://127.0.0.1:6443{path}", self.curl()));
            said.code == 0 && !said.out.contains("\"code\": 404")
        };
        [
            "/readyz",
            "/api/v1/namespaces/default",
            "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        ]
        .into_iter()
        .all(ask)
    }

    fn curl(&self) -> String {
        format!("curl -ksSf -H 'Authorization: Bearer {ADMIN}'")
    }

    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.kill().and_then(|()| server.wait()).expect("it was running");
    }

    /// Only the new one is known to the server that is started next.
    pub fn rotate_token(&mut self) {
        self.token = SECOND;
        fs::write(self.path("tokens.csv"), tokens(SECOND)).expect("it can be written");
        fs::write(self.path("token"), SECOND).expect("it can be written");
    }

    fn send(&self, method: &str, path: &str, (kind, body): (&str, &str)) {
        let file = self.path("body");
        fs::write(&file, body).expect("it can be written");
        self.node.sh(&format!(
            "{} -X {method} -H 'Content-Type: {kind}' --data-binary @{} https://127.0.0.1:6443{path}",
            self.curl(),
            file.display()
        ));
    }

    pub fn post(&self, path: &str, object: &Value) {
        self.send("POST", path, ("application/json", &object.to_string()));
    }

    pub fn put(&self, path: &str, object: &Value) {
        self.send("PUT", path, ("application/json", &object.to_string()));
    }

    pub fn delete(&self, path: &str) {
        self.send("DELETE", path, ("application/json", "{}"));
    }

    /// ServiceAccount, ClusterRole and binding, as `kubectl apply` would.
    pub fn apply_rights(&self, text: &str) {
        for document in text.split("\n---\n") {
            let rbac = "/apis/rbac.authorization.k8s.io/v1";
            let path = match document {
                one if one.contains("kind: ServiceAccount\nmetadata") => {
                    "/api/v1/namespaces/kube-system/serviceaccounts".to_owned()
                }
                one if one.contains("kind: ClusterRoleBinding") => {
                    format!("{rbac}/clusterrolebindings")
                }
                one if one.contains("kind: ClusterRole\n") => format!("{rbac}/clusterroles"),
                other => panic!("what is this? {other}"),
            };
            self.send("POST", &path, ("application/yaml", document));
        }
    }

    /// Starts vipd.
    pub fn run(&mut self, flags: &[&str]) {
        let at = self.directory.path();
        fs::write(at.join("token"), self.token).expect("it can be written");
        let user = json!({"tokenFile": at.join("token")});
        let cluster = json!({"server": "https://127.0.0.1:6443",
            "certificate-authority": at.join("certs/apiserver.crt")});
        let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "vipd", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "vipd"}}]});
        let kubeconfig = at.join("kubeconfig");
        fs::write(&kubeconfig, file.to_string()).expect("it can be written");
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
    format!("{ADMIN},admin,admin,\"system:masters\"\n{vipd},{VIPD},vipd\n")
}

fn spawn(node: &Netns, at: &Path, name: &str, arguments: &[String]) -> Child {
    let log = File::create(at.join(format!("{name}.log"))).expect("it can be made");
    let mut command = Command::new(directory().join(name));
    command.args(arguments).current_dir(at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    node.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{name}: {error}"))
}
