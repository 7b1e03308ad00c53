//! One Event to the API server. EDGE: it asks over the network.

use super::ledger::{Outcome, Sending, Step};
use super::notice::About;
use super::wire::{event, name, namespace, series};
use crate::model::Kind;
use crate::sources::kubernetes::{Access, causes};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::response::Status;
use kube::{Api, Client, Resource};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// For all that one Event needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the server is asked, and for which node.
pub(super) struct Post {
    pub access: Access,
    pub node: Arc<str>,
    /// Made when there is something to say.
    client: Option<Client>,
}

/// Why an Event did not go.
#[derive(Debug)]
pub(super) enum Why {
    /// This node may not: the server's own words.
    Forbidden(String),
    /// The server takes Events, but not this one.
    Unwanted(String),
    /// There is no answer, or none that says anything about the Event.
    Away(String),
}

impl Post {
    pub fn new(access: Access, node: Arc<str>) -> Self {
        Self { access, node, client: None }
    }

    /// No connection is kept for what comes once in a while.
    pub fn rest(&mut self) {
        self.client = None;
    }

    pub async fn send(&mut self, sending: &Sending) -> (Outcome, Option<Why>) {
        let sent = match timeout(PATIENCE, self.try_send(sending)).await {
            Ok(sent) => sent,
            Err(_) => Err(Why::Away(format!("no answer within {PATIENCE:?}"))),
        };
        match sent {
            Ok(outcome) => (outcome, None),
            Err(why @ Why::Away(_)) => {
                // Who we are may be written otherwise by now.
                self.client = None;
                (Outcome::Later, Some(why))
            }
            Err(why) => (Outcome::Refused, Some(why)),
        }
    }

    async fn try_send(&mut self, sending: &Sending) -> Result<Outcome, Why> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                self.access.asking_client().await.map_err(|error| Why::Away(error.to_string()))?
            }
        };
        self.client = Some(client.clone());
        let about = &sending.notice.about;
        let events: Api<Event> = Api::namespaced(client.clone(), namespace(about));
        match &sending.step {
            Step::Make => {
                let uid = uid(client, about).await?;
                let event = event(sending, uid, &self.node);
                let name = event.metadata.name.clone().unwrap_or_default();
                match events.create(&PostParams::default(), &event).await {
                    Ok(_) => Ok(Outcome::Sent(name.into())),
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        Ok(Outcome::Sent(name.into()))
                    }
                    Err(error) => Err(why(error)),
                }
            }
            Step::Count { name, count, last } => {
                let patch = Patch::Merge(series(*count, *last));
                match events.patch(name, &PatchParams::default(), &patch).await {
                    Ok(_) => Ok(Outcome::Sent(name.clone())),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Gone),
                    Err(error) => Err(why(error)),
                }
            }
        }
    }
}

/// Asked when it is needed: kept for every object it would be megabytes, for a few Events a day.
async fn uid(client: Client, about: &About) -> Result<Option<String>, Why> {
    let About::Object { kind, key } = about else { return Ok(None) };
    let name = name(about, key);
    match kind {
        Kind::Service => of(&Api::<Service>::namespaced(client, namespace(about)), name).await,
        Kind::EndpointSlice => {
            of(&Api::<EndpointSlice>::namespaced(client, namespace(about)), name).await
        }
        Kind::ServiceCidr => of(&Api::<ServiceCIDR>::all(client), name).await,
        // An API server is not asked for these.
        Kind::Endpoints | Kind::Pod | Kind::Node => Ok(None),
    }
}

/// By a list of one, which needs no other right than to follow the kind does.
async fn of<K>(objects: &Api<K>, name: &str) -> Result<Option<String>, Why>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let one = ListParams::default().fields(&format!("metadata.name={name}"));
    match objects.list_metadata(&one).await {
        Ok(list) => match list.items.into_iter().next() {
            Some(object) => Ok(object.metadata.uid),
            None => Err(Why::Unwanted("the object is gone".into())),
        },
        // Then `kubectl get events` has it, and `kubectl describe` does not.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(why(error)),
    }
}

fn why(error: kube::Error) -> Why {
    match error {
        kube::Error::Api(status) => of_status(&status),
        error => Why::Away(causes(&error)),
    }
}

fn of_status(status: &Status) -> Why {
    let said = match status.message.as_str() {
        "" => &status.reason,
        message => message,
    };
    let said = format!("the API server answers {}: {said}", status.code);
    match status.code {
        // A namespace that is being deleted takes nothing more; the words are the server's (1.37).
        403 if status.message.contains("being terminated") => Why::Unwanted(said),
        403 => Why::Forbidden(said),
        400 | 404 | 405 | 413 | 415 | 422 => Why::Unwanted(said),
        _ => Why::Away(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_means() {
        let of = |code, message: &str| {
            of_status(&Status { code, message: message.into(), ..Status::default() })
        };
        assert!(matches!(of(403, "cannot create resource"), Why::Forbidden(_)));
        let leaving = "unable to create new content in namespace x because it is being terminated";
        assert!(matches!(of(403, leaving), Why::Unwanted(_)));
        for code in [404, 422] {
            assert!(matches!(of(code, ""), Why::Unwanted(_)), "{code}");
        }
        for code in [401, 429, 500, 503] {
            assert!(matches!(of(code, ""), Why::Away(_)), "{code}");
        }
    }
}
