//! A notice as an Event of events.k8s.io/v1. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::ledger::Sending;
use super::notice::{About, EventType, Finders, Notice};
use crate::model::Kind;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::Xxh3;

const CONTROLLER: &str = "vipd";
/// Bytes of a note, and of `reportingInstance` (events.k8s.io/v1).
const NOTE: usize = 1024;
const INSTANCE: usize = 128;
/// Bytes of a name, without what tells it from others.
const NAME: usize = 253 - 17;
/// Where Events are about objects that have no namespace.
const DEFAULT: &str = "default";

/// The namespace of an Event: that of the object.
pub(super) fn namespace(about: &About) -> &str {
    match about {
        About::Node => DEFAULT,
        About::Object { key, .. } => {
            key.split_once('/').map_or(DEFAULT, |(namespace, _)| namespace)
        }
    }
}

/// The object's name in its namespace.
pub(super) fn name<'a>(about: &'a About, node: &'a str) -> &'a str {
    match about {
        About::Node => node,
        About::Object { key, .. } => key.split_once('/').map_or(key, |(_, name)| name),
    }
}

/// `uid`: the object's, as far as it is known; the node's is its name.
pub(super) fn event(sending: &Sending, uid: Option<String>, node: &str) -> Event {
    let Sending { notice, first, .. } = sending;
    let Notice { about, reason, note } = &**notice;
    let instance = format!("{CONTROLLER}-{node}");
    let id = id(notice, uid.as_deref(), (node, *first));
    let name = cut(name(about, node), NAME).trim_end_matches(['-', '.']);
    let event_type = match reason.event_type() {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{id:016x}")),
            namespace: Some(namespace(about).into()),
            ..ObjectMeta::default()
        },
        event_time: Some(micro_time(*first)),
        type_: Some(event_type.into()),
        reason: Some(reason.name().into()),
        action: Some(reason.action().into()),
        regarding: Some(regarding(about, uid, node)),
        note: Some(cut(note, NOTE).into()),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(cut(&instance, INSTANCE).into()),
        ..Event::default()
    }
}

/// What changes in an Event that happened again: all else of it must stay as it is.
pub(super) fn series(count: u32, last: SystemTime) -> Value {
    json!({"series": {"count": count, "lastObservedTime": micro_time(last)}})
}

/// Tells Events about one object apart. What all nodes find has the same on each of them, so that the
/// second one to tell is answered that the Event is there.
fn id(notice: &Notice, uid: Option<&str>, (node, first): (&str, SystemTime)) -> u64 {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(bytes);
        hash.update(&[0]);
    };
    part(notice.reason.name().as_bytes());
    part(notice.note.as_bytes());
    part(uid.unwrap_or_default().as_bytes());
    if notice.reason.finders() == Finders::ThisNode {
        let since = first.duration_since(UNIX_EPOCH).unwrap_or_default();
        part(node.as_bytes());
        part(&since.as_nanos().to_le_bytes());
    }
    hash.digest()
}

/// `kubectl describe` looks for Events by the object's uid: for a Node by the one that it has and by
/// its name, which kube-proxy and the kubelet write there. The name is known without the Node object.
fn regarding(about: &About, uid: Option<String>, node: &str) -> ObjectReference {
    let (kind, api_version) = match about {
        About::Node => (Kind::Node, "v1"),
        About::Object { kind, .. } => (*kind, api_version(*kind)),
    };
    let namespaced = match about {
        About::Node => None,
        About::Object { key, .. } => key.split_once('/').map(|(namespace, _)| namespace.into()),
    };
    let uid = match about {
        About::Node => Some(node.to_owned()),
        About::Object { .. } => uid,
    };
    ObjectReference {
        kind: Some(kind.name().into()),
        api_version: Some(api_version.into()),
        name: Some(name(about, node).into()),
        namespace: namespaced,
        uid,
        ..ObjectReference::default()
    }
}

fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Service | Kind::Endpoints | Kind::Pod | Kind::Node => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::ServiceCidr => "networking.k8s.io/v1",
    }
}

fn micro_time(at: SystemTime) -> MicroTime {
    MicroTime(Timestamp::try_from(at).unwrap_or_default())
}

/// As much as fits, in whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    match text.len() > bytes {
        true => &text[..text.floor_char_boundary(bytes)],
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ledger::Step;
    use crate::events::notice::Reason;
    use crate::model::ServiceKey;
    use std::sync::Arc;
    use std::time::Duration;

    fn sending(about: About, reason: Reason, note: &str) -> Sending {
        let notice = Arc::new(Notice { about, reason, note: note.into() });
        let first = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        Sending { notice, first, step: Step::Make }
    }

    fn of_service(reason: Reason, note: &str) -> Sending {
        sending(About::service(&ServiceKey::new("prod", "web")), reason, note)
    }

    #[test]
    fn an_event_stands_where_describe_looks_for_it() {
        let of_node = event(&sending(About::Node, Reason::Starting, "x"), None, "node-a");
        let regarding = of_node.regarding.clone().unwrap();
        assert_eq!(of_node.metadata.namespace.as_deref(), Some("default"));
        assert_eq!((regarding.namespace, regarding.uid.as_deref()), (None, Some("node-a")));
        assert_eq!(of_node.type_.as_deref(), Some("Normal"));
        assert_eq!(of_node.reporting_instance.as_deref(), Some("vipd-node-a"));
        let of_service = event(&of_service(Reason::Rejected, "x"), Some("u-1".into()), "node-a");
        let regarding = of_service.regarding.clone().unwrap();
        assert_eq!(of_service.metadata.namespace.as_deref(), Some("prod"));
        assert_eq!(regarding.namespace.as_deref(), Some("prod"));
        assert_eq!(
            (regarding.kind.as_deref(), regarding.name.as_deref()),
            (Some("Service"), Some("web"))
        );
        assert_eq!(regarding.uid.as_deref(), Some("u-1"));
        assert_eq!(of_service.type_.as_deref(), Some("Warning"));
        let text = serde_json::to_value(&of_service).unwrap();
        assert_eq!(text["eventTime"], "2023-11-14T22:13:20.000001Z");
        assert!(text["metadata"]["name"].as_str().unwrap().starts_with("web."), "{text}");
    }

    #[test]
    fn what_every_node_finds_has_one_name_and_the_rest_has_many() {
        let name = |sending: &Sending, uid: &str, node| {
            event(sending, Some(uid.into()), node).metadata.name
        };
        let found = of_service(Reason::Rejected, "x");
        assert_eq!(name(&found, "u", "node-a"), name(&found, "u", "node-b"));
        assert_ne!(name(&found, "u", "node-a"), name(&found, "u-of-the-next", "node-a"));
        assert_ne!(name(&found, "u", "a"), name(&of_service(Reason::Rejected, "y"), "u", "a"));
        let here = of_service(Reason::FailedToStartServiceHealthcheck, "x");
        assert_ne!(name(&here, "u", "node-a"), name(&here, "u", "node-b"));
        let later = Sending { first: here.first + Duration::from_secs(1), ..here.clone() };
        assert_ne!(name(&here, "u", "node-a"), name(&later, "u", "node-a"));
    }

    #[test]
    fn nothing_is_longer_than_the_server_takes() {
        let long = "ä".repeat(1000);
        let key = format!("prod/{}", "a.".repeat(126) + "a");
        let about = About::Object { kind: Kind::EndpointSlice, key: key.into() };
        let event = event(&sending(about, Reason::Rejected, &long), None, &"n".repeat(253));
        assert_eq!(event.note.unwrap().len(), 1024);
        assert!(event.reporting_instance.unwrap().len() <= 128);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
    }

    #[test]
    fn a_repetition_changes_the_series_only() {
        let patch = series(7, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(patch["series"]["count"], 7);
        assert_eq!(patch["series"]["lastObservedTime"], "1970-01-01T00:00:01.000000Z");
        assert_eq!(patch.as_object().unwrap().len(), 1);
    }
}
