//! The topology of the packet tests with a real API server on its node, as that from which vipd learns
//! of objects. Cases share it, because a server takes seconds to start: each begins with no rules, no
//! vipd, and no objects but the Nodes.
//!
//! In: the sentences of a case. Out: a case's [`World`], its server and a client of it.
//! Never: a server that outlives the tests.

use crate::api::{Api, Source, path};
use crate::control_plane::{Authorization, ControlPlane, Settings};
use crate::examples::documents;
use crate::runner;
use crate::support::manifests::node;
use crate::support::plan::{NODE_A, NODE_B, Node, SERVICE_RANGES, V4, Who};
use crate::support::vipd::{Flag, LEFT_OUT};
use crate::support::world::{WORK, World};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Longer than the longest pause of vipd, with its jitter.
pub const SOON: Duration = Duration::from_secs(45);

/// Who the binding of `examples/kubernetes/rbac.yaml` names, and a token of it.
pub const VIPD: &str = "system:serviceaccount:kube-system:vipd";
pub const TOKEN: &str = "token-of-vipd";
/// Who may list what vipd watches, and no more.
pub const LISTS_ONLY: &str = "token-of-one-who-lists";

const KUBECONFIG: &str = "/run/case/vipd.kubeconfig";
const OTHER_KUBECONFIG: &str = "/run/case/other.kubeconfig";
const HEALTHZ_PORT: u16 = 10256;

pub struct Live {
    pub w: World,
    pub plane: ControlPlane,
    pub api: Rc<Api>,
}

thread_local! {
    static SHARED: RefCell<Option<Live>> = const { RefCell::new(None) };
}

/// Runs a case. One that fails takes everything with it, and the next one builds it anew.
pub fn with(body: impl FnOnce(&mut Live)) {
    let mut live = SHARED.take().unwrap_or_else(Live::build);
    let told = catch_unwind(AssertUnwindSafe(|| {
        live.clear();
        body(&mut live);
        live.w.assert_running();
    }));
    match told {
        Ok(()) => SHARED.set(Some(live)),
        Err(panic) => {
            println!("{}", live.w.state());
            drop(live);
            resume_unwind(panic)
        }
    }
}

/// Ends the servers.
pub fn end() {
    drop(SHARED.take());
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.w.is_running() {
            self.w.kill();
        }
        Who::ALL.into_iter().for_each(|who| runner::remove(self.w.netns(who)));
    }
}

impl Live {
    fn build() -> Live {
        let at = PathBuf::from(WORK);
        let _ = fs::remove_dir_all(&at);
        let mut made = None;
        let w = World::build_with(V4, |node| {
            let tokens = format!("{TOKEN},{VIPD},vipd\n{LISTS_ONLY},lists-only,lists-only\n");
            node.sh(&format!(
                "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=clients \
                 -keyout {WORK}/ca.key -out {WORK}/ca.crt 2>/dev/null"
            ));
            let settings = Settings {
                authorization: Authorization::Rbac,
                tokens,
                server_flags: vec![
                    format!("--service-cluster-ip-range={SERVICE_RANGES}"),
                    format!("--client-ca-file={WORK}/ca.crt"),
                ],
            };
            let plane = ControlPlane::start(node, &at, settings);
            let api = Rc::new(Api::start(node, plane.admin_kubeconfig()));
            fs::write(at.join("token"), TOKEN).expect("an own /run");
            plane.kubeconfig("vipd.kubeconfig", &json!({"tokenFile": at.join("token")}));
            grant(&api);
            made = Some((plane, api.clone()));
            Box::new(Source(api))
        });
        let (plane, api) = made.expect("made above");
        Live { w, plane, api }
    }

    /// Nothing of the last case is left.
    fn clear(&mut self) {
        if self.w.is_running() {
            self.w.kill();
        }
        let here = self.w.netns(Node);
        here.try_sh("nft delete table inet vipd; conntrack -F");
        for kind in ["Deployment", "Service", "EndpointSlice", "Pod", "Node"] {
            let objects = self.api.items(&path(kind, ""));
            let names = objects.iter().filter_map(|object| object["metadata"]["name"].as_str());
            // The server's own Service.
            let others = names.filter(|name| *name != "kubernetes");
            self.api.delete_all(others.map(|name| path(kind, name)));
        }
        self.w.write(node(NODE_A, Some("z1")));
        self.w.write(node(NODE_B, Some("z2")));
    }

    /// Starts vipd and waits until it serves.
    #[track_caller]
    pub fn start(&self, flags: &[Flag]) {
        self.launch(flags);
        self.settle();
    }

    /// Starts vipd without waiting. Service ranges come from the API.
    pub fn launch(&self, flags: &[Flag]) {
        self.launch_with(&[&[("--kubeconfig", KUBECONFIG)], flags].concat());
    }

    /// The same, where the case says how the server is reached.
    pub fn launch_with(&self, flags: &[Flag]) {
        self.w.launch(&[&[("--service-cluster-ip-range", LEFT_OUT)], flags].concat());
    }

    /// Returns when vipd has applied all that was written before.
    #[track_caller]
    pub fn settle(&self) {
        self.w.settle_within(SOON);
    }

    /// What is answered about the process: status and body. Status 0: nobody listens.
    pub fn asked(&self, path: &str) -> (u16, Value) {
        let address = self.w.address(Node);
        self.http(Who::Ext, &format!("http://{address}:{HEALTHZ_PORT}{path}"))
    }

    /// Status and body, which is JSON, or a text.
    pub fn http(&self, who: Who, url: &str) -> (u16, Value) {
        let said = self.w.netns(who).try_sh(&format!(r"curl -s -m 5 -w '\n%{{http_code}}' {url}"));
        let (body, code) = said.out.rsplit_once('\n').unwrap_or(("", "0"));
        let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
        (code.trim().parse().unwrap_or(0), body)
    }

    /// The value of a sample of `/metrics`, labels included in its name.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let (_, text) = self.http(Node, "http://127.0.0.1:10249/metrics");
        let text = text.as_str().unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok())
    }

    /// Waits until the log has these words; in whichever way it writes quotes.
    #[track_caller]
    pub fn told(&self, words: &str) {
        self.w.within(SOON, || self.log().contains(words));
    }

    pub fn log(&self) -> String {
        self.w.log().replace('\\', "")
    }

    /// vipd with a kubeconfig of its own, in place of the usual one.
    pub fn launch_as(&self, kubeconfig: &Value) {
        fs::write(OTHER_KUBECONFIG, kubeconfig.to_string()).expect("an own /run");
        self.launch_with(&[("--kubeconfig", OTHER_KUBECONFIG)]);
    }

    /// Whether there are rules of vipd on the node.
    pub fn programs(&self) -> bool {
        self.w.netns(Node).try_sh("nft list table inet vipd").out.contains("chain prerouting")
    }
}

/// The rights of the example, and those of one who may only list.
fn grant(api: &Api) {
    let example = include_str!("../../examples/kubernetes/rbac.yaml");
    let documents: Vec<Value> = documents(example).map(|(object, _)| object).collect();
    documents.iter().for_each(|object| api.apply(object));
    for mut object in documents.into_iter().filter(|object| object["kind"] != "ServiceAccount") {
        object["metadata"]["name"] = json!("lists-only");
        if object["kind"] == "ClusterRole" {
            let rules = object["rules"].as_array_mut().expect("rules");
            rules.iter_mut().for_each(|rule| rule["verbs"] = json!(["list"]));
        } else {
            object["roleRef"]["name"] = json!("lists-only");
            object["subjects"] = json!([{"kind": "User", "name": "lists-only",
                "apiGroup": "rbac.authorization.k8s.io"}]);
        }
        api.apply(&object);
    }
}
