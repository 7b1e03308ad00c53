//! The metadata of an object, without what is not read.
//!
//! In: metadata as the API writes it. Out: an ObjectMeta in which only that is set which is read.
//! Never: a copy of `managedFields`: a server sends it with every object, and often as much of it as of
//! everything else together.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// As k8s-openapi's. What is not read must be of its type all the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename = "ObjectMeta")]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    #[serde(rename = "finalizers")]
    _finalizers: Option<Vec<Unread>>,
    #[serde(rename = "generateName")]
    _generate_name: Option<Unread>,
    #[serde(rename = "generation")]
    _generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "managedFields")]
    _managed_fields: Option<Vec<UnreadObject>>,
    name: Option<String>,
    namespace: Option<String>,
    #[serde(rename = "ownerReferences")]
    _owner_references: Option<Vec<UnreadObject>>,
    #[serde(rename = "resourceVersion")]
    _resource_version: Option<Unread>,
    #[serde(rename = "selfLink")]
    _self_link: Option<Unread>,
    #[serde(rename = "uid")]
    _uid: Option<Unread>,
}

/// For a field `metadata`.
pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ObjectMeta>, D::Error> {
    let read = Option::<Metadata>::deserialize(from)?;
    Ok(read.map(|read| ObjectMeta {
        annotations: read.annotations,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        name: read.name,
        namespace: read.namespace,
        ..ObjectMeta::default()
    }))
}

/// k8s-openapi's Service with such metadata.
#[derive(Deserialize)]
pub(super) struct Service {
    #[serde(default, deserialize_with = "read")]
    metadata: Option<ObjectMeta>,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

impl From<Service> for core::Service {
    fn from(Service { metadata, spec, status }: Service) -> Self {
        Self { metadata: metadata.unwrap_or_default(), spec, status }
    }
}

/// A string of which nothing is kept.
pub(super) struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Unread;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, _: &str) -> Result<Unread, E> {
                Ok(Unread)
            }
        }

        from.deserialize_str(Any)
    }
}

/// An object of which nothing is kept.
#[derive(Deserialize)]
struct UnreadObject {}
