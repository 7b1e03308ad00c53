//! The writer's loop, with the channels and the clock of a running daemon.

use crate::bench::{KINDS, batch, settings};
use crate::fake::{Fake, Flows, Op};
use crate::objects::{policy, service};
use crate::{dns, web};
use arc_swap::ArcSwap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vipd::model::{
    External, Kind, Node, Object, ObjectRef, OwnLimits, ServiceType, TrafficPolicy, Uncommon,
};
use vipd::planner::{Action, Masquerade, Policy};
use vipd::sources::{Batch, Change};
use vipd::sync::{Inputs, OwnNode, Settings, Snapshot, SyncStatus, Tuning, Writer, run};

const DEADLINE: Duration = Duration::from_secs(10);

struct Daemon {
    fake: Fake,
    batches: Option<mpsc::Sender<Batch>>,
    addresses: Option<watch::Sender<Vec<std::net::IpAddr>>>,
    tuning: Option<watch::Sender<Tuning>>,
    stop: CancellationToken,
    published: Arc<ArcSwap<Snapshot>>,
    listening: watch::Receiver<()>,
}

impl Daemon {
    fn status(&self) -> SyncStatus {
        self.published.load().status.clone()
    }

    async fn send(&self, changes: Vec<Change>) {
        let batches = self.batches.as_ref().expect("the source has not ended");
        batches.send(batch(changes)).await.expect("the writer takes batches");
    }

    /// Whether listeners were woken since the last look.
    fn woken(&mut self) -> bool {
        let woken = self.listening.has_changed().expect("the writer runs");
        self.listening.mark_unchanged();
        woken
    }

    async fn until_woken(&mut self) {
        let woken = tokio::time::timeout(DEADLINE, self.listening.changed());
        woken.await.expect("listeners are woken").expect("the writer runs");
    }

    /// Says what all sources and the node say at a start.
    async fn start(&self) {
        self.send(web().upserts()).await;
        self.send(dns().upserts()).await;
        self.send(KINDS.map(Change::Synced).into()).await;
        let addresses = self.addresses.as_ref().expect("the node has not ended");
        addresses.send_replace(vec!["192.168.0.2".parse().unwrap()]);
        self.until("the first resync", |daemon| daemon.fake.kernel().services.len() == 2).await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&Daemon) -> bool) {
        let since = Instant::now();
        while !reached(self) {
            assert!(since.elapsed() < DEADLINE, "{what}: {:?}", self.status());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Runs the loop beside a test, and ends it; the loop must end soon after it is told to.
fn with(fake: Fake, period: Duration, test: impl AsyncFnOnce(&mut Daemon)) -> Daemon {
    let writer = Writer::new(settings(period), fake.clone(), Flows::default());
    let (batches, received) = mpsc::channel(64);
    let (addresses, followed) = watch::channel(Vec::new());
    let (tune, tuning) = watch::channel(settings(period).tuning);
    let stop = CancellationToken::new();
    let mut daemon = Daemon {
        fake,
        batches: Some(batches),
        addresses: Some(addresses),
        tuning: Some(tune),
        stop: stop.clone(),
        published: writer.published(),
        listening: writer.listening(),
    };
    let story = async {
        test(&mut daemon).await;
        daemon.stop.cancel();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let inputs = Inputs { batches: received, addresses: followed, tuning };
        let both = async { tokio::join!(run(writer, inputs, stop), story) };
        tokio::time::timeout(DEADLINE * 2, both).await.expect("the loop ends when it is told to");
    });
    daemon
}

#[test]
fn what_arrives_during_a_commit_is_written_together_behind_it() {
    with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.fake.kernel().calls.clear();
        let late: Vec<_> = (10..30u8)
            .map(|number| service(&format!("late-{number}"), number).endpoints(&[1]))
            .collect();
        let keys: Vec<_> = late.iter().map(|example| example.key()).collect();
        let batches = daemon.batches.clone().expect("the source has not ended");
        daemon.fake.kernel().during = Some(Box::new(move || {
            for example in late {
                batches.try_send(batch(example.upserts())).expect("there is room");
            }
        }));
        daemon.send(web().endpoints(&[1]).upserts()).await;
        daemon.until("all services", |daemon| daemon.fake.kernel().services.len() == 22).await;
        let kernel = daemon.fake.kernel();
        assert_eq!(kernel.ops(), [Op::Apply, Op::Apply]);
        assert_eq!(kernel.calls[0].services, [web().key()]);
        assert_eq!(kernel.calls[1].services, keys);
    });
}

#[test]
fn a_stream_of_changes_is_written_once_a_period() {
    let period = Duration::from_millis(50);
    with(Fake::default(), period, async |daemon| {
        daemon.start().await;
        daemon.fake.kernel().calls.clear();
        let begin = Instant::now();
        for number in 10..40u8 {
            daemon.send(service(&format!("s{number}"), number).endpoints(&[1]).upserts()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon.until("all services", |daemon| daemon.fake.kernel().services.len() == 32).await;
        let applies = daemon.fake.kernel().ops().iter().filter(|op| **op == Op::Apply).count();
        // Any two applies are at least one period apart.
        assert!(period * (applies as u32 - 1) <= begin.elapsed(), "{applies} applies");
        assert!(applies > 1, "the stream lasts longer than a period");
    });
}

#[test]
fn failures_are_retried_without_being_asked() {
    with(Fake::failing(Op::Resync, 0..3), Duration::ZERO, async |daemon| {
        daemon.start().await;
        assert_eq!(daemon.status().failures, 3);
        daemon.fake.kernel().fail(Op::Apply, [0]);
        daemon.fake.kernel().fail(Op::Resync, [0, 1]);
        daemon.send(dns().deletes()).await;
        daemon.until("the deletion", |daemon| daemon.fake.kernel().services.len() == 1).await;
        assert_eq!(daemon.status().failures, 6);
    });
}

#[test]
fn foreign_edits_are_noticed() {
    with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        for count in 1..=3 {
            daemon.fake.kernel().edit();
            assert_eq!(daemon.fake.kernel().services.len(), 1);
            daemon.until("a repair", |daemon| daemon.status().repairs == count).await;
            assert_eq!(daemon.fake.kernel().services.len(), 2);
        }
    });
}

#[test]
fn an_edit_that_cannot_be_repaired_is_resynced() {
    with(Fake::failing(Op::Repair, [0]), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.fake.kernel().edit();
        daemon.until("a resync", |daemon| daemon.fake.kernel().services.len() == 2).await;
        assert_eq!((daemon.status().repairs, daemon.status().failures), (0, 1));
    });
}

#[test]
fn a_source_that_ends_takes_nothing_along() {
    with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.batches = None;
        daemon.addresses = None;
        daemon.tuning = None;
        daemon.fake.kernel().edit();
        daemon.until("a repair", |daemon| daemon.status().repairs == 1).await;
        assert_eq!(daemon.fake.kernel().services.len(), 2);
    });
}

#[test]
fn what_the_operator_changes_is_written_for_all_services() {
    with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.fake.kernel().calls.clear();
        let masqueraded = |daemon: &Daemon| {
            let plan = daemon.published.load().plan.clone();
            let services: Vec<_> = plan.services().collect();
            assert_eq!(services.len(), 2);
            services.iter().flat_map(|service| service.held()).all(|(_, frontend)| {
                matches!(frontend.action, Action::Forward(to) if to.masquerade == Masquerade::Always)
            })
        };
        assert!(!masqueraded(daemon));
        let tune = daemon.tuning.clone().expect("nobody has dropped it");
        let policy = Policy { masquerade_all: true, ..policy() };
        tune.send_replace(Tuning { policy, min_sync_period: Duration::ZERO });
        daemon.until("the new policy", masqueraded).await;
        assert_eq!(daemon.fake.kernel().ops(), [Op::Apply]);
        assert_eq!(daemon.fake.kernel().calls[0].services, [dns().key(), web().key()]);
        assert!(daemon.published.load().plan.node.masquerade_all);
        // The same once more is nothing new.
        daemon.fake.kernel().calls.clear();
        let same = tune.borrow().clone();
        tune.send_replace(same);
        daemon.send(web().deletes()).await;
        daemon.until("the deletion", |daemon| daemon.fake.kernel().services.len() == 1).await;
        let written: Vec<_> =
            daemon.fake.kernel().calls.iter().flat_map(|call| call.services.clone()).collect();
        assert_eq!(written, [web().key()]);
    });
}

/// The fake panics if it is told to clean up.
#[test]
fn shutting_down_leaves_what_is_programmed_and_writes_nothing_more() {
    let daemon = with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.fake.kernel().calls.clear();
        daemon.stop.cancel();
        daemon.send(web().deletes()).await;
    });
    let kernel = daemon.fake.kernel();
    assert_eq!(kernel.ops(), []);
    let left: Vec<_> = kernel.services.keys().cloned().collect();
    assert_eq!(left, [dns().key(), web().key()]);
}

/// A service whose health a load balancer asks for, at this port.
fn checked(port: u16) -> Vec<Change> {
    let mut changes = service("checked", 3).endpoints(&[1]).upserts();
    for change in &mut changes {
        if let Change::Upsert(Object::Service(service)) = change {
            let service = Arc::get_mut(service).expect("nobody else has it yet");
            service.service_type = ServiceType::LoadBalancer;
            service.external_policy = TrafficPolicy::Local;
            let health_check_node_port = NonZeroU16::new(port);
            let external = External { health_check_node_port, ..External::default() };
            service.uncommon = Uncommon::of(external, OwnLimits::default());
        }
    }
    changes
}

#[test]
fn listeners_are_woken_for_health_checks_and_addresses_only() {
    with(Fake::default(), Duration::ZERO, async |daemon| {
        daemon.start().await;
        daemon.woken();
        daemon.send(web().endpoints(&[7]).upserts()).await;
        daemon.send(dns().deletes()).await;
        daemon.until("the deletion", |daemon| daemon.fake.kernel().services.len() == 1).await;
        assert!(!daemon.woken());
        for port in [32_000, 32_001] {
            daemon.send(checked(port)).await;
            daemon.until_woken().await;
        }
        let addresses = daemon.addresses.as_ref().expect("the node has not ended");
        addresses.send_replace(vec!["192.168.0.9".parse().unwrap()]);
        daemon.until_woken().await;
    });
}

#[test]
fn a_node_that_nobody_has_seen_is_not_eligible_where_it_is_expected() {
    for (own_node, eligible) in [(OwnNode::Optional, true), (OwnNode::Expected, false)] {
        let settings = Settings { own_node, ..settings(Duration::ZERO) };
        let mut writer = Writer::new(settings, Fake::default(), Flows::default());
        let mut take = |changes| {
            writer.take(batch(changes));
            writer.take_addresses(vec!["192.168.0.2".parse().unwrap()]);
            writer.work(Instant::now());
            !writer.published().load().plan.facts.going_away
        };
        assert_eq!(take(KINDS.map(Change::Synced).into()), eligible, "{own_node:?}");
        let node = Node {
            name: "node-a".into(),
            addresses: Box::default(),
            zone: None,
            pod_cidrs: Box::default(),
            going_away: false,
        };
        assert!(take(vec![Change::Upsert(Object::Node(Arc::new(node)))]), "{own_node:?}");
        let gone = ObjectRef::new(Kind::Node, "node-a");
        assert!(!take(vec![Change::Delete(gone)]), "{own_node:?}: it was there");
    }
}
