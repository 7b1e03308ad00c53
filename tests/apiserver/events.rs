//! Events: what is sent, once, and what a server that takes none or is away costs.

use super::cluster::Cluster;
use super::{kubeconfig, service};
use arc_swap::ArcSwap;
use hyper::Method;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vipd::events::{self, About, Counts, Desk, Notices, Reason};
use vipd::model::{Kind, ObjectRef, Origin, Problem, Severity};
use vipd::planner::Plan;
use vipd::sources::Scope;
use vipd::sources::kubernetes::Access;
use vipd::sync::{Snapshot, SyncStatus};

/// Longer than a few pauses of the sender, with their jitter.
const SOON: Duration = Duration::from_secs(60);

struct Teller {
    notices: Notices,
    counts: Counts,
    published: Arc<ArcSwap<Snapshot>>,
    findings: watch::Sender<()>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl Teller {
    fn of(cluster: &Cluster) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(cluster, "first")).expect("it can be written");
        let counts = Counts::default();
        let (notices, told) = Notices::new(counts.clone());
        let findings = watch::Sender::new(());
        let (known, problems) = Default::default();
        let empty =
            Snapshot { known, plan: Plan::empty(), problems, status: SyncStatus::default() };
        let published = Arc::new(ArcSwap::from_pointee(empty));
        let desk = Desk {
            access: Access::new(Some(path), None),
            node: "node-a".into(),
            counts: counts.clone(),
            published: Arc::clone(&published),
            findings: findings.subscribe(),
            told,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(events::serve(desk, stop.clone()));
        Self { notices, counts, published, findings, stop, task, _directory: directory }
    }

    /// Publishes that these Services are rejected, and why.
    fn rejected(&self, all: &[(&str, &str)]) {
        let mut now = Snapshot::clone(&self.published.load());
        now.problems.clear();
        for (key, reason) in all {
            let object = ObjectRef::new(Kind::Service, key);
            let problem = Problem {
                severity: Severity::Rejected,
                origin: Origin::Cluster,
                object: Some(object.clone()),
                field: "spec.clusterIP".into(),
                reason: (*reason).into(),
            };
            now.problems.insert(Scope::Object(object), [problem].into());
        }
        self.published.store(Arc::new(now));
        self.findings.send_replace(());
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !is() {
            assert!(Instant::now() < end, "not within {SOON:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn with(cluster: &Cluster, reason: &str) -> Vec<Value> {
    cluster.events().into_values().filter(|event| event["reason"] == reason).collect()
}

fn writes(cluster: &Cluster) -> usize {
    cluster.asked().iter().filter(|asked| asked.method != Method::GET).count()
}

#[tokio::test]
async fn the_start_is_told_of_the_node() {
    let cluster = Cluster::start().await;
    let teller = Teller::of(&cluster);
    teller.notices.tell(About::Node, Reason::Starting, "vipd serves this node");
    teller.until("the Event", || !with(&cluster, "Starting").is_empty()).await;
    let event = &with(&cluster, "Starting")[0];
    assert_eq!(event["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&event["type"], &event["action"]), (&"Normal".into(), &"StartKubeProxy".into()));
    assert_eq!(event["metadata"]["namespace"], "default");
    let regarding = &event["regarding"];
    assert_eq!((&regarding["kind"], &regarding["name"]), (&"Node".into(), &"node-a".into()));
    assert_eq!(regarding["uid"], "node-a", "where kubectl describe looks");
    assert_eq!(event["reportingController"], "vipd");
    assert_eq!(event["reportingInstance"], "vipd-node-a");
    assert!(event["series"].is_null(), "{event}");
    teller.until("its count", || teller.counts.sent.get() == 1).await;
}

#[tokio::test]
async fn a_rejected_object_is_told_once() {
    let cluster = Cluster::start().await;
    cluster.put("services", "prod/bad", service("10.254.0.300"));
    cluster.put("services", "default/bad", service("10.254.0.9"));
    let teller = Teller::of(&cluster);
    teller.rejected(&[("prod/bad", "no IP address")]);
    teller.until("the Event", || with(&cluster, "Rejected").len() == 1).await;
    let event = &with(&cluster, "Rejected")[0];
    assert_eq!(event["metadata"]["namespace"], "prod");
    assert_eq!(event["regarding"]["uid"], "u", "the Service's own");
    assert_eq!(event["note"], "not served: spec.clusterIP: no IP address");
    // The same again, and mended and broken again.
    teller.rejected(&[("prod/bad", "no IP address")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    teller.rejected(&[]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    teller.rejected(&[("prod/bad", "no IP address")]);
    teller.notices.tell(About::Node, Reason::Starting, "after it");
    teller.until("what comes after", || !with(&cluster, "Starting").is_empty()).await;
    assert_eq!((with(&cluster, "Rejected").len(), writes(&cluster)), (1, 2));
    // Another node finds it too.
    let other = Teller::of(&cluster);
    other.rejected(&[("prod/bad", "no IP address")]);
    other.until("its turn", || other.counts.sent.get() == 1).await;
    assert_eq!(with(&cluster, "Rejected").len(), 1, "one Event for all nodes");
    teller.rejected(&[("prod/bad", "another reason")]);
    teller.until("another reason", || with(&cluster, "Rejected").len() == 2).await;
}

#[tokio::test]
async fn what_is_gone_by_then_is_not_told() {
    let cluster = Cluster::start().await;
    let teller = Teller::of(&cluster);
    teller.rejected(&[("prod/gone", "no IP address")]);
    teller.until("it is given up", || teller.counts.dropped.get() == 1).await;
    assert_eq!(writes(&cluster), 0);
}

#[tokio::test]
async fn what_happens_again_is_counted_at_the_server() {
    let cluster = Cluster::start().await;
    let teller = Teller::of(&cluster);
    let edited = || teller.notices.tell(About::Node, Reason::ForeignEditRepaired, "edited");
    edited();
    teller.until("the Event", || with(&cluster, "ForeignEditRepaired").len() == 1).await;
    edited();
    let count = || with(&cluster, "ForeignEditRepaired")[0]["series"]["count"].clone();
    teller.until("the count", || count() == 2).await;
    assert_eq!(with(&cluster, "ForeignEditRepaired").len(), 1);
}

#[tokio::test]
async fn a_server_that_refuses_costs_nothing_but_the_events() {
    let cluster = Cluster::start().await;
    cluster.put("services", "prod/bad", service("10.254.0.300"));
    cluster.faults(|faults| {
        faults.refused.insert("events", 403);
    });
    let teller = Teller::of(&cluster);
    teller.notices.tell(About::Node, Reason::Starting, "vipd serves this node");
    teller.rejected(&[("prod/bad", "no IP address")]);
    teller.until("the refusal", || teller.counts.dropped.get() == 1).await;
    for number in 0..20 {
        teller.notices.tell(About::Node, Reason::SysctlNotWritten, format!("{number}"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&cluster), 1, "it is not asked again at once");
    assert_eq!((teller.counts.dropped.get(), teller.counts.sent.get()), (1, 0));
}

#[tokio::test]
async fn while_the_server_is_away_events_are_not_piled_up() {
    let cluster = Cluster::start().await;
    cluster.stop().await;
    let teller = Teller::of(&cluster);
    teller.notices.tell(About::Node, Reason::Starting, "vipd serves this node");
    let names: Vec<String> = (0..2000).map(|number| format!("prod/s{number:04}")).collect();
    let all: Vec<(&str, &str)> = names.iter().map(|key| (key.as_str(), "no IP address")).collect();
    teller.rejected(&all);
    teller.until("some are left out", || teller.counts.dropped.get() > 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let dropped = teller.counts.dropped.get();
    assert!((1744..1800).contains(&dropped), "{dropped} of 2001, and 256 wait");
    cluster.start_again().await;
    for key in &names[..10] {
        cluster.put("services", key, service("10.254.0.300"));
    }
    teller.until("what waited", || with(&cluster, "Rejected").len() == 10).await;
    teller.until("the first thing", || with(&cluster, "Starting").len() == 1).await;
}
