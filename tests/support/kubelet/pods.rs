//! The pods of the node, and what slices say of them.
//!
//! In: two watches. Out: a task for each pod, which is told what becomes of it.
//! Never: a pod that is started twice.

use super::network::Network;
use super::pod::{Host, Orders};
use super::{Error, Problems, Settings};
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::{self, Sender};

type Uid = String;

pub struct Pods {
    node: String,
    host: Host,
    problems: Problems,
    running: BTreeMap<Uid, Sender<Orders>>,
    /// Those of a list that has not ended.
    listed: BTreeSet<Uid>,
    /// By slice, the pods that it calls something else than terminating.
    slices: BTreeMap<Uid, BTreeSet<Uid>>,
    /// The same of a list that has not ended.
    new_slices: BTreeMap<Uid, BTreeSet<Uid>>,
}

impl Pods {
    pub fn new(
        client: Client,
        settings: &Settings,
        network: Arc<Network>,
        problems: Problems,
    ) -> Self {
        let reporter = Reporter {
            controller: "kubelet-stand-in".into(),
            instance: Some(settings.name.clone()),
        };
        let host = Host {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            network,
            address: settings.address,
            stops: settings.stops,
        };
        Self {
            node: settings.name.clone(),
            host,
            problems,
            running: BTreeMap::new(),
            listed: BTreeSet::new(),
            slices: BTreeMap::new(),
            new_slices: BTreeMap::new(),
        }
    }

    /// For ever.
    pub async fn follow(mut self) {
        let pods = Api::<Pod>::all(self.host.client.clone());
        let here = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let slices = Api::<EndpointSlice>::all(self.host.client.clone());
        let mut pods = pin!(watcher(pods, here).default_backoff());
        let mut slices = pin!(watcher(slices, watcher::Config::default()).default_backoff());
        loop {
            tokio::select! {
                event = self.next(&mut pods, "pods") => self.pod(event),
                event = self.next(&mut slices, "slices") => self.slice(event),
            }
        }
    }

    async fn next<K>(
        &self,
        events: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
        what: &'static str,
    ) -> Event<K> {
        loop {
            match events.next().await {
                Some(Ok(event)) => return event,
                // It pauses, and tries again.
                Some(Err(source)) => {
                    self.problems.add(&Error::Watch { what, source: Box::new(source) });
                }
                None => std::future::pending().await,
            }
        }
    }

    fn pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.uid());
                self.apply(pod);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.running.retain(|uid, orders| listed.contains(uid) || is_gone(orders));
            }
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => {
                if let Some(orders) = pod.uid().and_then(|uid| self.running.remove(&uid)) {
                    is_gone(&orders);
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let end_within = pod.metadata.deletion_timestamp.as_ref().map(|_| grace);
        if let Some(orders) = self.running.get(&uid) {
            orders.send_if_modified(|orders| {
                std::mem::replace(&mut orders.end_within, end_within) != end_within
            });
            return;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        let listed = self.is_listed(&uid);
        let (orders, receiver) = watch::channel(Orders { end_within, listed, gone: false });
        self.running.insert(uid, orders);
        let (host, problems) = (self.host.clone(), self.problems.clone());
        tokio::spawn(async move {
            if let Err(error) = host.run(pod, receiver).await {
                problems.add(&error);
            }
        });
    }

    fn slice(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.new_slices.clear(),
            Event::InitApply(slice) => {
                self.new_slices.insert(slice.uid().unwrap_or_default(), not_terminating(&slice));
            }
            Event::InitDone => self.slices = std::mem::take(&mut self.new_slices),
            Event::Apply(slice) => {
                self.slices.insert(slice.uid().unwrap_or_default(), not_terminating(&slice));
            }
            Event::Delete(slice) => {
                self.slices.remove(&slice.uid().unwrap_or_default());
            }
        }
        for (uid, orders) in &self.running {
            let listed = self.is_listed(uid);
            orders
                .send_if_modified(|orders| std::mem::replace(&mut orders.listed, listed) != listed);
        }
    }

    fn is_listed(&self, uid: &Uid) -> bool {
        self.slices.values().any(|pods| pods.contains(uid))
    }
}

fn is_gone(orders: &Sender<Orders>) -> bool {
    orders.send_modify(|orders| orders.gone = true);
    false
}

fn not_terminating(slice: &EndpointSlice) -> BTreeSet<Uid> {
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        !conditions.and_then(|all| all.terminating).unwrap_or(false)
    });
    endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.clone()).collect()
}
