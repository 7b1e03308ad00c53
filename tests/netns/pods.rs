//! Endpoints that follow from pods: a Service and Pods are written, no slice and no Endpoints object.

use super::support::manifests::{File, Manifest, Plain, slice};
use super::support::plan::{Family, L1, L2, L3, R1, R2, V4, V6, Who};
use super::support::runner::{Case, case};
use super::support::servers::Tcp;
use super::support::world::World;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Instant;

/// Port 80 goes to what each pod calls `http`.
fn service(w: &World) -> Plain {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "svc", "namespace": "default"},
        "spec": {
            "clusterIP": w.cip(),
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": "http"}],
        },
    });
    Plain { name: "svc", objects: vec![object] }
}

#[derive(Clone, Copy)]
enum Life {
    Starting,
    Ready,
    /// Deleted, and still ready.
    Draining,
    /// Deleted, and no longer ready.
    Stopping,
}

/// A pod with both its addresses, selected by `svc`.
#[derive(Clone, Copy)]
struct Pod {
    who: Who,
    life: Life,
    http: u16,
    app: &'static str,
}

fn pod(who: Who) -> Pod {
    Pod { who, life: Life::Ready, http: 8080, app: "web" }
}

impl Pod {
    fn is(self, life: Life) -> Pod {
        Pod { life, ..self }
    }

    fn listening_on(self, http: u16) -> Pod {
        Pod { http, ..self }
    }

    fn labelled(self, app: &'static str) -> Pod {
        Pod { app, ..self }
    }

    fn value(self) -> Value {
        let ready = matches!(self.life, Life::Ready | Life::Draining);
        let addresses = [V4, V6].map(|family| json!({"ip": family.address(self.who)}));
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name(), "namespace": "default",
                "labels": {"app": self.app, "pod-template-hash": "2568522567"},
            },
            "spec": {
                "nodeName": self.who.host(),
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": self.http}]}],
            },
            "status": {
                "phase": "Running",
                "podIP": V4.address(self.who),
                "podIPs": addresses,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        });
        if matches!(self.life, Life::Draining | Life::Stopping) {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z");
        }
        object
    }

    fn name(self) -> String {
        format!("web-2568522567-{}", self.who.name().to_lowercase())
    }
}

impl Manifest for Pod {
    fn files(&self, _: Family) -> Vec<File> {
        vec![File { name: format!("{}.yaml", self.name()), objects: vec![self.value()] }]
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a pod is replaced while connections run: none is lost, open ones stay", |w| {
            w.write(service(w));
            w.write(pod(L1));
            w.serve(pod(R1).listening_on(9090));
            let replies = w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]);
            for answer in replies.answers() {
                let expected = if answer.server == "L1" { 8080 } else { 9090 };
                replies.check(answer.local.port() == expected, "each pod at its own port");
            }
            let loads = [L3, L2].map(|who| w.load(who, w.cip(), 80, 100));
            let start = Instant::now();
            let open: Vec<_> = (0..6).map(|_| w.talking(L2, Tcp, w.cip(), 80)).collect();
            w.serve(pod(R2).is(Life::Starting));
            w.tcp(L3, w.cip(), 80).times(200).spread([L1, R1]);
            w.write(pod(R2));
            w.serve(pod(L1).is(Life::Draining));
            w.tcp(L3, w.cip(), 80).times(200).spread([R1, R2]);
            w.servers(L1).close(Tcp, SocketAddr::new(w.address(L1), 8080));
            w.sleep(300);
            w.withdraw(pod(L1));
            w.tcp(L3, w.cip(), 80).times(200).spread([R1, R2]);
            for load in loads {
                let replies = load.stop();
                assert!(replies.outcomes.len() > 40, "{replies}");
                replies.reached();
            }
            for flow in open {
                flow.undisturbed(start);
            }
        }),
        case("pods that all terminate serve as long as they are ready, then nobody does", |w| {
            w.write(service(w));
            w.write(pod(L1).is(Life::Draining));
            w.serve(pod(R1).is(Life::Draining));
            w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]);
            w.serve(pod(L1).is(Life::Stopping));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
            w.serve(pod(R1).is(Life::Stopping));
            w.tcp(L2, w.cip(), 80).times(3).refused();
            w.serve(pod(R2));
            w.tcp(L2, w.cip(), 80).times(20).only([R2]);
            w.serve(pod(R2).labelled("other"));
            w.tcp(L2, w.cip(), 80).times(3).refused();
        }),
        case("a slice takes over from the pods, and gives way to them", |w| {
            w.write(service(w));
            w.serve(pod(L1));
            w.tcp(L2, w.cip(), 80).times(20).only([L1]);
            w.serve(slice([R1]));
            w.tcp(L2, w.cip(), 80).times(20).only([R1]);
            w.withdraw(slice([R1]));
            w.tcp(L2, w.cip(), 80).times(20).only([L1]);
        }),
    ]
}
