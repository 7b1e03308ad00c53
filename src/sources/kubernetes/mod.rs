//! A Kubernetes API server as a source: Services, EndpointSlices, ServiceCIDRs and this node's Node.
//!
//! In: how to reach it. Out: [`Batch`]es; [`Change::Synced`] for a kind after its first list.
//! Never: a copy of what it has said (names are kept, to know what a new list leaves out); an end
//! because the server is away.

mod access;
mod failure;
mod follow;
mod pace;
mod protobuf;
mod proxy;
mod renewed;
mod requests;
mod seen;
mod token;

pub use access::{Access, Error, chain as causes};
pub use pace::pauses;
pub use requests::{Made, Requests};

use crate::model::Kind;
use crate::sources::{Batch, Change};
use follow::{Follower, Selection, follow};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use pace::Pace;
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// Services that another proxy serves are left to it; Services without a cluster IP and their slices are
/// of no use. On the other kind neither label means anything (kube-proxy 1.37, `cmd/kube-proxy`).
const SERVICES: &str = "!service.kubernetes.io/service-proxy-name";
const SLICES: &str = "!service.kubernetes.io/headless";

const WITH_CLUSTER_IP: &str = "spec.clusterIP!=None";

/// These have no list of their own here: endpoints are read as slices, pods not at all.
const NOT_WATCHED: [Kind; 2] = [Kind::Endpoints, Kind::Pod];

/// An API server to be followed.
pub struct Source {
    access: Access,
    pace: Pace,
    node_name: String,
}

/// Reads what says how to reach the server; does not ask it yet. Fails for what waiting cannot mend.
pub async fn open(access: Access, node_name: &str) -> Result<Source, Error> {
    access.check().await?;
    Ok(Source { access, pace: Pace::new(), node_name: node_name.to_owned() })
}

impl Source {
    /// Follows the server until the future or the receiver is dropped.
    pub async fn run(self, out: Sender<Batch>) {
        let changes = NOT_WATCHED.map(Change::Synced).into();
        if out.send(Batch::new(changes, Instant::now())).await.is_err() {
            return;
        }
        let services =
            Selection { labels: Some(SERVICES.into()), fields: Some(WITH_CLUSTER_IP.into()) };
        let slices = Selection { labels: Some(SLICES.into()), fields: None };
        let own =
            Selection { labels: None, fields: Some(format!("metadata.name={}", self.node_name)) };
        let all = Selection::default();
        let follower = |kind, selection| Follower::new(kind, selection, out.clone());
        // An exec plugin runs once, not for each kind. Where it fails, each follower tries again.
        let first = self.access.client(&self.pace).await.ok();
        let access = (&self.access, &self.pace);
        tokio::join!(
            follow::<Service>(access, first.clone(), follower(Kind::Service, services)),
            follow::<EndpointSlice>(access, first.clone(), follower(Kind::EndpointSlice, slices)),
            follow::<Node>(access, first.clone(), follower(Kind::Node, own)),
            follow::<ServiceCIDR>(access, first.clone(), follower(Kind::ServiceCidr, all)),
        );
    }
}
