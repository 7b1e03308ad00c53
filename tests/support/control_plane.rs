//! Real parts of a Kubernetes control plane, as processes in one network namespace: etcd and
//! kube-apiserver, and where asked for kube-controller-manager and kube-scheduler.
//!
//! In: objects for the API. Out: what the server answers.
//! Never: a process that outlives its [`ControlPlane`]; a listener outside of the namespace.

use crate::netns::{Netns, Said};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(90);

const ADMIN: &str = "admin-of-the-test";
pub const SERVER: &str = "https://127.0.0.1:6443";
/// What cluster IPs come from.
pub const SERVICE_RANGE: &str = "10.254.0.0/16";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    AlwaysAllow,
    Rbac,
}

/// Where `tests/cluster/build-peers` puts this part.
pub fn part(name: &str) -> PathBuf {
    let var =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    var("PEERS_DIR").or_else(|| Some(cache()?.join("vipd-peers"))).unwrap_or_default().join(name)
}

/// Whether these parts have been built.
pub fn are_built(names: &[&str]) -> Result<(), String> {
    match names.iter().map(|name| part(name)).find(|path| !path.exists()) {
        None => Ok(()),
        Some(path) => Err(format!(
            "{} is missing: tests/cluster/build-peers {} builds it",
            path.display(),
            names.join(" ")
        )),
    }
}

/// How the control plane is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    pub authorization: Authorization,
    /// Lines of a static token file beside the administrator's: `token,user,uid[,"groups"]`.
    pub tokens: String,
    /// Flags of kube-apiserver beside those that it always gets.
    pub server_flags: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authorization: Authorization::AlwaysAllow,
            tokens: String::new(),
            server_flags: Vec::new(),
        }
    }
}

pub struct ControlPlane {
    node: Netns,
    at: PathBuf,
    pub settings: Settings,
    etcd: Child,
    server: Option<Child>,
    others: Vec<Child>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let first = self.others.drain(..).chain(self.server.take());
        for mut child in first {
            end(&mut child);
        }
        end(&mut self.etcd);
        if std::thread::panicking() {
            let said = fs::read_to_string(self.at.join("kube-apiserver.log")).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            eprintln!("--- kube-apiserver, the last first\n{}", last.join("\n"));
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl ControlPlane {
    /// In `node`, whose loopback is up; its files in the directory `at`. Returns when the API
    /// server answers.
    pub fn start(node: &Netns, at: &Path, settings: Settings) -> Self {
        let key = at.join("sa.key");
        node.sh(&format!("openssl genrsa -out {} 2048 2>/dev/null", key.display()));
        let etcd = [
            "--data-dir".into(),
            at.join("etcd").display().to_string(),
            "--unsafe-no-fsync".into(),
            "--log-level=error".into(),
        ];
        let etcd = spawn(node, at, "etcd", &etcd);
        let (node, at) = (node.clone(), at.to_owned());
        let mut plane = Self { node, at, settings, etcd, server: None, others: Vec::new() };
        plane.start_server();
        plane
    }

    /// With the settings of now.
    pub fn start_server(&mut self) {
        let file = |name: &str| self.at.join(name).display().to_string();
        let tokens = format!("{ADMIN},admin,admin,\"system:masters\"\n{}", self.settings.tokens);
        fs::write(self.at.join("tokens.csv"), tokens).expect("it can be written");
        let mode = match self.settings.authorization {
            Authorization::AlwaysAllow => "AlwaysAllow",
            Authorization::Rbac => "RBAC",
        };
        let mut arguments = vec![
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
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--disable-admission-plugins=ServiceAccount".into(),
            // As a node's own containers need it (kubeadm).
            "--allow-privileged=true".into(),
        ];
        arguments.extend(self.settings.server_flags.iter().cloned());
        self.server = Some(spawn(&self.node, &self.at, "kube-apiserver", &arguments));
        let end = Instant::now() + READY;
        while !self.is_ready() {
            assert!(Instant::now() < end, "the API server is not ready after {READY:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn is_ready(&self) -> bool {
        let objects = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
        ["/readyz", "/api/v1/namespaces/default", objects].into_iter().all(|path| {
            let said = self.try_get(path);
            said.code == 0 && !said.out.contains("\"code\": 404")
        })
    }

    /// As a crash would.
    pub fn kill_server(&mut self) {
        end(&mut self.server.take().expect("it runs"));
    }

    /// Makes Deployments' pods, their slices, and binds pods to nodes.
    pub fn start_controllers(&mut self) {
        let kubeconfig = self.admin_kubeconfig();
        let common = || {
            [
                format!("--kubeconfig={}", kubeconfig.display()),
                "--leader-elect=false".into(),
                "--bind-address=127.0.0.1".into(),
            ]
        };
        let key = self.at.join("sa.key");
        let key = format!("--service-account-private-key-file={}", key.display());
        let manager: Vec<String> = common().into_iter().chain([key]).collect();
        self.others.push(spawn(&self.node, &self.at, "kube-controller-manager", &manager));
        self.others.push(spawn(&self.node, &self.at, "kube-scheduler", &common()));
    }

    pub fn stop_controllers(&mut self) {
        self.others.drain(..).for_each(|mut child| end(&mut child));
    }

    /// Writes a kubeconfig file of this server for this `user` of it, such as `{"token": …}`.
    pub fn kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let certificate = self.at.join("certs/apiserver.crt");
        let cluster = json!({"server": SERVER, "certificate-authority": certificate});
        let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}]});
        let path = self.at.join(name);
        fs::write(&path, file.to_string()).expect("it can be written");
        path
    }

    /// A kubeconfig file of who may do everything, for `kubectl` and whatever else a test starts.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin.kubeconfig", &json!({"token": ADMIN}))
    }

    fn curl(&self, words: &str, path: &str) -> String {
        format!(
            "curl -ksS --fail-with-body -H 'Authorization: Bearer {ADMIN}' {words} {SERVER}{path}"
        )
    }

    pub fn try_get(&self, path: &str) -> Said {
        self.node.try_sh(&self.curl("", path))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let text = self.node.sh(&self.curl("", path));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, (kind, body): (&str, impl AsRef<[u8]>)) {
        let file = self.at.join("body");
        fs::write(&file, body).expect("it can be written");
        let words =
            format!("-X {method} -H 'Content-Type: {kind}' --data-binary @{}", file.display());
        self.node.sh(&self.curl(&words, path));
    }

    #[track_caller]
    pub fn post(&self, path: &str, object: &Value) {
        self.send("POST", path, ("application/json", &object.to_string()));
    }

    #[track_caller]
    pub fn put(&self, path: &str, object: &Value) {
        self.send("PUT", path, ("application/json", &object.to_string()));
    }

    /// A merge patch; `path` may end in `/status`.
    #[track_caller]
    pub fn patch(&self, path: &str, change: &Value) {
        self.send("PATCH", path, ("application/merge-patch+json", &change.to_string()));
    }

    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.send("DELETE", path, ("application/json", "{}"));
    }
}

fn spawn(node: &Netns, at: &Path, name: &str, arguments: &[String]) -> Child {
    let log = File::create(at.join(format!("{name}.log"))).expect("it can be made");
    let mut command = Command::new(part(name));
    command.args(arguments).current_dir(at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    node.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{name}: {error}"))
}
