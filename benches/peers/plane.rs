//! A real API server in a namespace of its own, the objects in it, and links to the nodes. EDGE.
//!
//! In: services. Out: objects as an API server holds them; a kubeconfig that works on every node.
//! Never: a word to the proxies that does not go through the API.

use crate::Outcome;
use crate::control_plane::{self, ControlPlane, Settings};
use crate::generate::{NAMESPACE, NODES, POD_RANGE, ServiceSpec};
use crate::manifests::{in_memory, service_alone, slice_alone};
use crate::netns::Netns;
use crate::world::Namespace;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// The node's own address, beside those of its servers.
pub const NODE_ADDRESS: &str = "10.61.0.1";

/// The address that kube-apiserver's own certificate is for (`--advertise-address`).
const ADDRESS: &str = "192.0.2.1";
/// Of the first node's link; each further one has the next.
const FIRST_LINK: [u8; 4] = [192, 0, 2, 2];
/// Objects are created over so many connections at once.
const CONNECTIONS: usize = 12;

pub struct Plane {
    runtime: Runtime,
    client: Client,
    pub kubeconfig: PathBuf,
    net: Netns,
    links: AtomicU8,
    _servers: ControlPlane,
    /// Ends after those who write to it.
    directory: TempDir,
}

impl Plane {
    /// etcd and kube-apiserver with a Node and an empty namespace.
    pub fn start() -> Outcome<Self> {
        let net = Netns::add("plane");
        net.sh(&format!("ip link set lo up && ip addr add {ADDRESS}/32 dev lo"));
        let directory = in_memory()?;
        let at = directory.path();
        // Of a flag that is given twice the last one counts.
        let server_flags = vec!["--bind-address=0.0.0.0".into()];
        let settings = Settings { server_flags, ..Settings::default() };
        let servers = ControlPlane::start(&net, at, settings);
        let here = std::fs::read_to_string(servers.admin_kubeconfig())?;
        let kubeconfig = at.join("node.kubeconfig");
        let there = here.replace(control_plane::SERVER, &format!("https://{ADDRESS}:6443"));
        std::fs::write(&kubeconfig, there)?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODES[0]},
            "spec": {"podCIDR": POD_RANGE, "podCIDRs": [POD_RANGE]}});
        servers.post("/api/v1/nodes", &node);
        let addresses = json!([{"type": "InternalIP", "address": NODE_ADDRESS},
            {"type": "Hostname", "address": NODES[0]}]);
        let status = json!({"status": {"addresses": addresses}});
        servers.patch(&format!("/api/v1/nodes/{}/status", NODES[0]), &status);
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        servers.post("/api/v1/namespaces", &namespace);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(client(&kubeconfig))?;
        let links = AtomicU8::new(0);
        Ok(Self { runtime, client, kubeconfig, net, links, _servers: servers, directory })
    }

    /// Runs what asks the API server, on a thread in its namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.net.enter(work)
    }

    /// Where daemons may keep files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Links a node to the API server.
    pub fn join(&self, node: &Namespace) -> Outcome<()> {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, first] = FIRST_LINK;
        let address = format!("{a}.{b}.{c}.{}", first + number);
        self.net.sh(&format!(
            "ip link add to-{number} type veth peer name plane netns {} &&
             ip addr add {ADDRESS}/32 peer {address}/32 dev to-{number} &&
             ip link set to-{number} up",
            node.path()
        ));
        node.ip(&format!(
            "addr add {address}/32 peer {ADDRESS}/32 dev plane\nlink set plane up\n"
        ))?;
        Ok(())
    }

    /// Creates the services with their slices. Inside.
    pub fn create(&self, services: &[ServiceSpec]) -> Outcome<()> {
        self.runtime.block_on(
            stream::iter(services)
                .map(|spec| async move {
                    self.send("POST", services_path(), service_alone(spec)).await?;
                    self.send("POST", slices_path(), slice_alone(spec, 0)).await
                })
                .buffer_unordered(CONNECTIONS)
                .try_collect(),
        )
    }

    /// Replaces a service's slice. Inside; returns when the server has answered.
    pub fn replace_slice(&self, spec: &ServiceSpec) -> Outcome<()> {
        let path = format!("{}/{}-00000", slices_path(), spec.name);
        self.runtime.block_on(self.send("PUT", path, slice_alone(spec, 0)))
    }

    async fn send(&self, method: &str, path: String, body: String) -> Outcome<()> {
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("Content-Type", "application/json")
            .body(body.into_bytes())?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{method} {path}: {error}").into()),
        }
    }
}

fn services_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn slices_path() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

/// A client as any program makes it.
pub async fn client(kubeconfig: &Path) -> Outcome<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
