//! One pod, from its namespace to its deletion.
//!
//! In: a Pod, and what becomes of it. Out: its status, events, the end of its deletion.
//! Never: a status before the server answers; a server after the grace period.

use super::network::{Network, Place};
use super::server::{self, Server};
use super::{Error, Stops, status};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

/// Between two looks whether a new server answers, and how long each may take: the kernel may lose
/// what is sent to a link that comes up.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// What the API server says of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// Its deletion was asked for, with this grace period.
    pub end_within: Option<Duration>,
    /// A slice calls it something else than terminating.
    pub listed: bool,
    /// It is no object any more: nobody waits for its end.
    pub gone: bool,
}

/// Everything that a pod needs.
#[derive(Clone)]
pub struct Host {
    pub client: Client,
    pub network: Arc<Network>,
    pub address: Ipv4Addr,
    pub recorder: Recorder,
    pub stops: Stops,
}

/// Its network namespace.
fn place_name(pod: &Pod) -> String {
    match pod.namespace().as_deref() {
        None | Some("default") => pod.name_any(),
        Some(namespace) => format!("{namespace}.{}", pod.name_any()),
    }
}

impl Host {
    /// Until its end, or that of whoever gives orders.
    pub async fn run(self, pod: Pod, mut orders: Receiver<Orders>) -> Result<(), Error> {
        let (place, server) = self.start(&pod).await?;
        let mut gone = orders.clone();
        let lived = tokio::select! {
            lived = self.live(&pod, &place, &server, &mut orders) => lived,
            _ = wait(&mut gone, |orders| orders.gone) => Ok(()),
        };
        drop(server);
        let network = self.network.clone();
        // Before the object: its successor may have the same name.
        let removed = tokio::task::spawn_blocking(move || network.remove(&place)).await;
        removed.map_err(|error| failed(&pod, format!("its namespace stays: {error}")))?;
        lived?;
        self.delete(&pod).await
    }

    async fn start(&self, pod: &Pod) -> Result<(Place, Server), Error> {
        let (network, name, ports) =
            (self.network.clone(), place_name(pod), status::tcp_ports(pod));
        let made = tokio::task::spawn_blocking(move || {
            let place = network.add(&name).ok_or("no address is left for it")?;
            match server::listen(&place, &ports) {
                Ok(listeners) => Ok((place, listeners)),
                Err(error) => {
                    network.remove(&place);
                    Err(format!("its server: {error}"))
                }
            }
        });
        let made = made.await.map_err(|error| failed(pod, format!("its namespace: {error}")))?;
        let (place, listeners) = made.map_err(|reason| failed(pod, reason))?;
        let who = format!("{} ({})", pod.name_any(), status::image(pod));
        let server = Server::start(listeners, &who)
            .map_err(|error| failed(pod, format!("its server: {error}")))?;
        Ok((place, server))
    }

    async fn live(
        &self,
        pod: &Pod,
        place: &Place,
        server: &Server,
        orders: &mut Receiver<Orders>,
    ) -> Result<(), Error> {
        tokio::select! {
            started = self.say_that_it_runs(pod, place) => started?,
            () = wait(orders, |orders| orders.end_within.is_some()) => {}
        }
        let mut grace = Duration::ZERO;
        wait(orders, |orders| {
            grace = orders.end_within.unwrap_or_default();
            orders.end_within.is_some()
        })
        .await;
        self.tell(pod, "Killing", "Stopping container").await;
        let stopping = async {
            match self.stops {
                Stops::AfterDeletion(length) => sleep(length).await,
                Stops::AfterSlice(length) => {
                    wait(orders, |orders| !orders.listed).await;
                    sleep(length).await;
                }
            }
            server.stop().await;
        };
        // What has not ended is cut off.
        let _ = timeout(grace, stopping).await;
        Ok(())
    }

    async fn say_that_it_runs(&self, pod: &Pod, place: &Place) -> Result<(), Error> {
        for port in status::tcp_ports(pod) {
            while !matches!(
                timeout(LOOK.1, TcpStream::connect((place.address, port))).await,
                Ok(Ok(_))
            ) {
                sleep(LOOK.0).await;
            }
        }
        let status = status::pod_is_running(pod, self.address, place.address);
        self.pods(pod)
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status))
            .await
            .map_err(Error::api(format!("status of pod {}", pod.name_any())))?;
        self.tell(pod, "Started", "Started a server in the place of its container").await;
        Ok(())
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    /// Beside everything else: an event that cannot be written is missed by nobody.
    async fn tell(&self, pod: &Pod, reason: &str, note: &str) {
        let event = Event {
            type_: EventType::Normal,
            reason: reason.into(),
            note: Some(note.into()),
            action: reason.into(),
            secondary: None,
        };
        let (recorder, pod) = (self.recorder.clone(), pod.object_ref(&()));
        tokio::spawn(async move { recorder.publish(&event, &pod).await });
    }

    /// The last word of a kubelet: from now on there is no such object.
    async fn delete(&self, pod: &Pod) -> Result<(), Error> {
        let this = Preconditions { uid: pod.uid(), resource_version: None };
        let at_once = DeleteParams::default().grace_period(0).preconditions(this);
        match self.pods(pod).delete(&pod.name_any(), &at_once).await {
            Ok(_) => Ok(()),
            // Gone, or another one of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Error::api(format!("deletion of pod {}", pod.name_any()))(error)),
        }
    }
}

/// For ever, where nobody gives orders any more: the runtime ends then.
async fn wait(orders: &mut Receiver<Orders>, is: impl FnMut(&Orders) -> bool) {
    if orders.wait_for(is).await.is_err() {
        pending().await
    }
}

fn failed(pod: &Pod, reason: impl Into<String>) -> Error {
    Error::Pod { pod: pod.name_any(), reason: reason.into() }
}
