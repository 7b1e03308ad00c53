//! What no proxy can do without: both lists read from the API server, and all elements written.
//!
//! In: the API server, a cluster. Out: seconds.
//! Never: a thought about what was read.

use crate::generate::Cluster;
use crate::plane::{Plane, client};
use crate::{Outcome, floor};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use std::fmt::Debug;
use std::pin::pin;
use std::time::Instant;
use tokio::runtime::Builder;

/// As client-go's pager asks for.
const PAGE: u32 = 500;

/// What marks the end of a list by stream (Kubernetes 1.27, `sendInitialEvents`).
const END: &str = "k8s.io/initial-events-end";

/// How the lists come, and what becomes of an object's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// In pages; k8s-openapi's types, by serde_json.
    Typed,
    /// In pages; nothing is decoded: what the API server and the wire take.
    Skipped,
    /// As a watch that begins with what there is; k8s-openapi's types.
    Streamed,
}

/// Seconds of a list of both kinds and, behind it, of the bare writer.
pub fn load(plane: &Plane, cluster: &Cluster, listing: Listing) -> Outcome<f64> {
    let mut writer = floor::Writer::new(floor::Declared::sized(cluster))?;
    let start = Instant::now();
    let objects = list(plane, listing)?;
    let listed = start.elapsed().as_secs_f64();
    if objects < 2 * cluster.services.len() {
        return Err(format!("only {objects} objects were listed").into());
    }
    Ok(listed + writer.load(cluster)?)
}

/// The connections, the lists at the same time, everything decoded once.
fn list(plane: &Plane, listing: Listing) -> Outcome<usize> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(&plane.kubeconfig).await?;
        let services = read(Api::<Service>::all(client.clone()), listing, &client);
        let slices = read(Api::<EndpointSlice>::all(client.clone()), listing, &client);
        let (services, slices) = tokio::try_join!(services, slices)?;
        Ok(services + slices)
    })
}

async fn read<K>(api: Api<K>, listing: Listing, client: &kube::Client) -> Outcome<usize>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    if listing == Listing::Streamed {
        return stream(api).await;
    }
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = 0;
    loop {
        let token = match listing {
            Listing::Typed | Listing::Streamed => {
                let page = api.list(&parameters).await?;
                objects += page.items.len();
                page.metadata.continue_
            }
            Listing::Skipped => {
                let request = kube::core::Request::new(K::url_path(&(), None));
                let page: Page = client.request(request.list(&parameters)?).await?;
                objects += page.items.len();
                page.metadata.token
            }
        };
        match token {
            Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
            _ => return Ok(objects),
        }
    }
}

/// Of the server's present state, as vipd and client-go ask for it.
async fn stream<K>(api: Api<K>) -> Outcome<usize>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(api.watch(&WatchParams::streaming_lists(), "").await?);
    let mut objects = 0;
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Added(_) => objects += 1,
            WatchEvent::Bookmark(at) if at.metadata.annotations.contains_key(END) => {
                return Ok(objects);
            }
            _ => {}
        }
    }
    Err("a list by stream has broken off".into())
}

#[derive(Debug, serde::Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Vec<IgnoredAny>,
}

#[derive(Debug, serde::Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue")]
    token: Option<String>,
}
