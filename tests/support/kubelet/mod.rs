//! A stand-in for the kubelet: a Node, and for each Pod that is bound to it a network namespace with
//! an address and a web server.
//!
//! In: Pods of an API server. Out: their status, written as a kubelet writes it; their deletion.
//! Never: containers, images, volumes, probes, logs or `exec`; a namespace that outlives its
//! [`Kubelet`]; a word on the terminal.

mod network;
mod node;
mod pod;
mod pods;
mod server;
mod status;

use crate::netns::Netns;
use ipnet::Ipv4Net;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use network::Network;
use pods::Pods;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// When the server of a pod that is being deleted begins to refuse connections; at the latest when
/// the pod's grace period is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stops {
    /// So long after the deletion was seen: a program that obeys SIGTERM.
    AfterDeletion(Duration),
    /// So long after no EndpointSlice calls the pod anything but terminating: a `preStop` hook that
    /// waits just long enough. What a proxy is told at the same time is then its own time to obey.
    AfterSlice(Duration),
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the Node.
    pub name: String,
    /// Of the node, which has it already.
    pub address: Ipv4Addr,
    /// What pods' addresses come from; the first one is left out.
    pub pods: Ipv4Net,
    /// Who may write Nodes, Leases, Pods and Events.
    pub kubeconfig: PathBuf,
    pub stops: Stops,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kubeconfig {path}: {source}; check the file")]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("{doing}: {source}; check the API server's log")]
    Api { doing: String, source: Box<kube::Error> },
    #[error("pod {pod}: {reason}")]
    Pod { pod: String, reason: String },
    #[error("the watch of {what}: {source}; it goes on")]
    Watch { what: &'static str, source: Box<kube::runtime::watcher::Error> },
    #[error("its thread ended before the Node was there")]
    Ended,
}

impl Error {
    fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        |source| Self::Api { doing, source: Box::new(source) }
    }
}

/// What went wrong without an end of everything; the last of it.
#[derive(Debug, Clone, Default)]
struct Problems(Arc<Mutex<Vec<String>>>);

impl Problems {
    const KEPT: usize = 50;

    fn add(&self, error: &Error) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == Self::KEPT {
            all.remove(0);
        }
        all.push(error.to_string());
    }
}

/// Runs until dropped; then its pods' namespaces are removed. What the API server knows stays.
pub struct Kubelet {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    network: Arc<Network>,
    problems: Problems,
}

impl Kubelet {
    /// In the namespace `node`, where the API server can be reached. Returns when the Node is there
    /// and Ready.
    ///
    /// # Errors
    /// The kubeconfig cannot be read, or the API server refuses the Node.
    pub fn start(node: &Netns, settings: Settings) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let problems = Problems::default();
        let network = Arc::new(Network::new(node.clone(), settings.address, settings.pods));
        let (ready, is_ready) = mpsc::channel();
        let run = Run {
            settings,
            network: network.clone(),
            problems: problems.clone(),
            stop: stop.clone(),
        };
        // The client's sockets belong to the namespace of the thread that makes them.
        let thread = Some(node.spawn(move || run.until_stopped(&ready)));
        let kubelet = Self { stop, thread, network, problems };
        is_ready.recv().unwrap_or(Err(Error::Ended)).map(|()| kubelet)
    }

    /// The network namespace of a running pod: its name, or `NAMESPACE.NAME` where that is not
    /// `default`.
    pub fn pod(&self, name: &str) -> Option<Netns> {
        self.network.of(name)
    }

    /// What went wrong so far; the API server being away is among it.
    pub fn problems(&self) -> Vec<String> {
        self.problems.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was told on standard error.
            let _ = thread.join();
        }
        self.network.remove_all();
    }
}

struct Run {
    settings: Settings,
    network: Arc<Network>,
    problems: Problems,
    stop: CancellationToken,
}

impl Run {
    fn until_stopped(self, ready: &mpsc::Sender<Result<(), Error>>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a process may have a few more descriptors");
        runtime.block_on(async {
            let registered = async {
                let client = connect(&self.settings.kubeconfig).await?;
                let node = node::Own::new(client.clone(), &self.settings);
                node.register().await?;
                Ok((client, node))
            };
            let (client, node) = match registered.await {
                Ok(both) => both,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Whoever started this waits for it.
            let _ = ready.send(Ok(()));
            let pods = Pods::new(client, &self.settings, self.network, self.problems.clone());
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = node.keep_fresh(&self.problems) => {}
                () = pods.follow() => {}
            }
        });
        // With the runtime all servers end.
    }
}

async fn connect(kubeconfig: &Path) -> Result<Client, Error> {
    let failed = |source| Error::Kubeconfig { path: kubeconfig.into(), source: Box::new(source) };
    let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?;
    Client::try_from(config).map_err(Error::api("a client"))
}
