//! The Node, and that it lives.
//!
//! In: its name and addresses. Out: the Node, its status, its Lease.
//! Never: an end because the API server is away.

use super::{Error, Problems, Settings, status};
use ipnet::Ipv4Net;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often a kubelet renews its Lease (nodeLeaseDurationSeconds 40 × 0.25).
const RENEW: Duration = Duration::from_secs(10);
/// After a failure. The namespace of Leases is made by the API server, some time after its start.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Own {
    client: Client,
    name: String,
    address: Ipv4Addr,
    pods: Ipv4Net,
}

impl Own {
    pub fn new(client: Client, settings: &Settings) -> Self {
        let Settings { name, address, pods, .. } = settings.clone();
        Self { client, name, address, pods }
    }

    /// The Node, new or as a predecessor left it, Ready.
    pub async fn register(&self) -> Result<(), Error> {
        let node = status::node(&self.name, self.pods);
        let nodes = Api::<Node>::all(self.client.clone());
        nodes
            .patch(&self.name, &by_force(), &Patch::Apply(&node))
            .await
            .map_err(Error::api(format!("node {}", self.name)))?;
        self.report(&status::node_is_ready(&self.name, self.address)).await
    }

    async fn report(&self, status: &serde_json::Value) -> Result<(), Error> {
        let nodes = Api::<Node>::all(self.client.clone());
        // A list of conditions is merged by type: what others know of the node stays.
        nodes
            .patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .map_err(Error::api(format!("status of node {}", self.name)))?;
        Ok(())
    }

    async fn renew(&self) -> Result<(), Error> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let lease = status::lease(&self.name);
        leases
            .patch(&self.name, &by_force(), &Patch::Apply(&lease))
            .await
            .map_err(Error::api(format!("lease {}", self.name)))?;
        Ok(())
    }

    /// For ever.
    pub async fn keep_fresh(&self, problems: &Problems) {
        loop {
            let renewed = async {
                self.renew().await?;
                self.report(&status::node_heartbeat()).await
            };
            let pause = match renewed.await {
                Ok(()) => RENEW,
                Err(error) => {
                    problems.add(&error);
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Makes the object where there is none.
fn by_force() -> PatchParams {
    PatchParams::apply("kubelet-stand-in").force()
}
