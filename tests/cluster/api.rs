//! A client of the API server that keeps its connections: objects as tests write them, applied as
//! `kubectl apply --server-side` does.
//!
//! In: objects. Out: what the server answers; a panic where it refuses.
//! Never: a change that the server has not confirmed.

use crate::netns::Netns;
use crate::support::directory::Objects;
use crate::support::manifests::File;
use futures_util::{StreamExt as _, stream};
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// For a server that is being started again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests under way at once, each on a connection of its own.
const AT_ONCE: usize = 16;

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// Where objects of a kind are: the API's path, the name of the collection, whether they are in
/// namespaces.
const KINDS: [(&str, &str, &str, bool); 13] = [
    ("Service", "/api/v1", "services", true),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1", "endpointslices", true),
    ("Node", "/api/v1", "nodes", false),
    ("Pod", "/api/v1", "pods", true),
    ("Secret", "/api/v1", "secrets", true),
    ("ServiceAccount", "/api/v1", "serviceaccounts", true),
    ("ConfigMap", "/api/v1", "configmaps", true),
    ("Deployment", "/apis/apps/v1", "deployments", true),
    ("DaemonSet", "/apis/apps/v1", "daemonsets", true),
    ("Lease", "/apis/coordination.k8s.io/v1", "leases", true),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1", "clusterroles", false),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
    ("ServiceCIDR", "/apis/networking.k8s.io/v1", "servicecidrs", false),
];

/// The path of a kind's objects in the namespace `default`, or of one of them.
pub fn path(kind: &str, name: &str) -> String {
    path_of(&json!({"kind": kind, "metadata": {"name": name}}))
}

fn path_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("{}/{name}", collection_of(object)).trim_end_matches('/').to_owned()
}

/// Where objects of its kind and namespace are made.
pub fn collection_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default();
    let (_, api, plural, namespaced) =
        KINDS.into_iter().find(|one| one.0 == kind).unwrap_or_else(|| panic!("a kind: {object}"));
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    match namespaced {
        true => format!("{api}/namespaces/{namespace}/{plural}"),
        false => format!("{api}/{plural}"),
    }
}

#[derive(Debug, Clone)]
struct Call {
    method: &'static str,
    path: String,
    kind: &'static str,
    body: String,
}

/// The server's status code and message.
pub type Refusal = (u16, String);

type Answers = Vec<Result<String, Refusal>>;

/// A thread in the server's namespace, which has the connections.
pub struct Api {
    orders: UnboundedSender<(Vec<Call>, mpsc::Sender<Answers>)>,
}

impl Api {
    /// `kubeconfig`: of who may do everything.
    pub fn start(node: &Netns, kubeconfig: PathBuf) -> Api {
        let (orders, inbox) = unbounded_channel();
        node.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("epoll is available").block_on(answer(kubeconfig, inbox));
        });
        Api { orders }
    }

    fn ask_all(&self, calls: Vec<Call>) -> Answers {
        let (done, wait) = mpsc::channel();
        self.orders.send((calls, done)).expect("the client's thread lives");
        wait.recv().expect("the client's thread answers")
    }

    fn ask(&self, call: Call) -> Result<String, Refusal> {
        self.ask_all(vec![call]).pop().expect("an answer each")
    }

    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let call = Call { method: "GET", path: path.into(), kind: "", body: String::new() };
        self.ask(call).unwrap_or_else(|refusal| panic!("GET {path}: {refusal:?}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let text = self.text(path);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The objects of a list.
    #[track_caller]
    pub fn items(&self, path: &str) -> Vec<Value> {
        self.get(path)["items"].as_array().cloned().unwrap_or_default()
    }

    /// Makes it or changes it to this, its status too.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        let mut made = object.clone();
        made.as_object_mut().expect("an object").remove("status");
        let path = path_of(object);
        let all = format!("{path}?fieldManager=test&force=true");
        let body = made.to_string();
        confirmed(vec![self.ask(Call { method: "PATCH", path: all, kind: APPLY, body })]);
        if object["status"].as_object().is_some_and(|status| !status.is_empty()) {
            self.patch(&format!("{path}/status"), &json!({"status": object["status"]}));
        }
    }

    /// What the server makes of an object that is sent to this path.
    #[track_caller]
    pub fn post(&self, path: &str, object: &Value) -> Value {
        let body = object.to_string();
        let call = Call { method: "POST", path: path.into(), kind: "application/json", body };
        let text = self.ask(call).unwrap_or_else(|refusal| panic!("POST {path}: {refusal:?}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Makes new ones, which costs the server less than to apply them.
    #[track_caller]
    pub fn create_all(&self, objects: &[Value]) {
        let made = objects.iter().map(|object| {
            let kind = object["kind"].as_str().unwrap_or_default();
            let (path, body) = (path(kind, ""), object.to_string());
            Call { method: "POST", path, kind: "application/json", body }
        });
        let mut answers = self.ask_all(made.collect());
        // Asked again, because the first answer was lost.
        answers.retain(|answer| !matches!(answer, Err((409, _))));
        confirmed(answers);
    }

    /// A merge patch; `path` may end in `/status`.
    #[track_caller]
    pub fn patch(&self, path: &str, change: &Value) {
        let body = change.to_string();
        let call = Call { method: "PATCH", path: path.into(), kind: MERGE, body };
        confirmed(vec![self.ask(call)]);
    }

    /// Without a grace period. What is gone already is no error.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.delete_all([path.to_owned()]);
    }

    #[track_caller]
    pub fn delete_all(&self, paths: impl IntoIterator<Item = String>) {
        let call = |path| {
            let body = json!({"gracePeriodSeconds": 0}).to_string();
            Call { method: "DELETE", path, kind: "application/json", body }
        };
        let mut answers = self.ask_all(paths.into_iter().map(call).collect());
        answers.retain(|answer| !matches!(answer, Err((404, _))));
        confirmed(answers);
    }
}

#[track_caller]
fn confirmed(answers: Answers) {
    for answer in answers {
        if let Err((code, message)) = answer {
            panic!("the API server answers {code}: {message}");
        }
    }
}

async fn answer(
    kubeconfig: PathBuf,
    mut inbox: UnboundedReceiver<(Vec<Call>, mpsc::Sender<Answers>)>,
) {
    let client = RefCell::new(client(&kubeconfig).await);
    while let Some((calls, done)) = inbox.recv().await {
        let answers =
            stream::iter(calls).map(|call| one((&client, &kubeconfig), call)).buffered(AT_ONCE);
        let _ = done.send(answers.collect().await);
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("written by the control plane");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a good kubeconfig")).expect("good certificates")
}

/// Asked again where no answer came: all that is asked comes to the same the second time.
async fn one(
    (shared, kubeconfig): (&RefCell<Client>, &Path),
    call: Call,
) -> Result<String, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut request = Request::builder().method(call.method).uri(&call.path);
        if !call.kind.is_empty() {
            request = request.header("content-type", call.kind);
        }
        let request = request.body(call.body.clone().into_bytes()).expect("a good request");
        let with = shared.borrow().clone();
        match with.request_text(request).await {
            Ok(text) => return Ok(text),
            // Just started, it does not know yet who may do what.
            Err(kube::Error::Api(status))
                if status.code < 500 && !matches!(status.code, 403 | 429) =>
            {
                return Err((status.code, status.message.clone()));
            }
            Err(error) if Instant::now() > end => return Err((0, error.to_string())),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                // The server may have another certificate since.
                let anew = client(kubeconfig).await;
                shared.replace(anew);
            }
        }
    }
}

/// The API server as that from which vipd learns of objects. How vipd reaches it is up to the case.
pub struct Source(pub Rc<Api>);

impl Objects for Source {
    fn put(&self, file: &File) {
        file.objects.iter().for_each(|object| self.0.apply(object));
    }

    fn remove(&self, file: &File) {
        self.0.delete_all(file.objects.iter().map(path_of));
    }

    fn arguments(&self) -> Vec<String> {
        Vec::new()
    }
}
