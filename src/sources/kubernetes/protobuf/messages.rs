//! What is read of the API's messages, and how it is written as JSON. PURE.
//!
//! Tags are those of `generated.proto` in k8s.io/api and k8s.io/apimachinery (1.37); what is not listed
//! is skipped, `managedFields` above all. The API server writes empty values where its JSON leaves a
//! field out; they are left out here too.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use hyper::body::Bytes;
use k8s_openapi::jiff::Timestamp;
use prost::Message;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// meta/v1 WatchEvent
#[derive(Message)]
pub(super) struct WatchEvent {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(message, optional, tag = "2")]
    pub object: Option<RawExtension>,
}

/// runtime.RawExtension
#[derive(Message)]
pub(super) struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    pub raw: Bytes,
}

/// runtime.Unknown: what every object is wrapped in.
#[derive(Message)]
pub(super) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    pub raw: Bytes,
}

/// runtime.TypeMeta
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TypeMeta {
    #[prost(string, tag = "1")]
    pub api_version: String,
    #[prost(string, tag = "2")]
    pub kind: String,
}

/// core/v1 Service
#[derive(Message, Serialize)]
pub(super) struct Service {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceStatus>,
}

/// discovery/v1 EndpointSlice
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "4")]
    pub address_type: String,
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    pub ports: Vec<EndpointPort>,
}

/// meta/v1 Status, in place of an object.
#[derive(Message, Serialize)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub status: String,
    #[prost(bytes = "vec", tag = "3")]
    #[serde(serialize_with = "lossy")]
    pub message: Vec<u8>,
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(int32, tag = "6")]
    pub code: i32,
}

/// meta/v1 ObjectMeta
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_no_time")]
    pub creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_no_time")]
    pub deletion_timestamp: Option<Time>,
    #[prost(btree_map = "string, string", tag = "11")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The API server checks the keys alone: a value may be no UTF-8, and JSON then has U+FFFD.
    #[prost(btree_map = "string, bytes", tag = "12")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "lossy_values")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// As much of any object as tells which one it is.
#[derive(Message)]
pub(super) struct Any {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Name>,
}

/// Of meta/v1 ObjectMeta.
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Name {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(string, tag = "6")]
    pub resource_version: String,
}

/// An object that cannot be read, as one that is refused for the reason that it has in place of a list
/// of fields.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unreadable {
    Spec(String),
    Endpoints(String),
}

/// meta/v1 Time
#[derive(Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    #[prost(btree_map = "string, string", tag = "2")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    #[serde(rename = "clusterIP", skip_serializing_if = "String::is_empty")]
    pub cluster_ip: String,
    #[prost(string, repeated, tag = "18")]
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    #[prost(string, tag = "4")]
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_affinity: String,
    #[prost(string, repeated, tag = "9")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub external_traffic_policy: String,
    #[prost(int32, tag = "12")]
    #[serde(skip_serializing_if = "is_zero")]
    pub health_check_node_port: i32,
    #[prost(bool, tag = "13")]
    pub publish_not_ready_addresses: bool,
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(string, repeated, tag = "19")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    #[prost(string, optional, tag = "22")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    #[prost(int32, tag = "3")]
    pub port: i32,
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    #[prost(int32, tag = "5")]
    #[serde(skip_serializing_if = "is_zero")]
    pub node_port: i32,
}

/// util/intstr IntOrString
#[derive(Message)]
pub(super) struct IntOrString {
    /// 0: a number; 1: a string.
    #[prost(int64, tag = "1")]
    pub which: i64,
    #[prost(int32, tag = "2")]
    pub number: i32,
    #[prost(string, tag = "3")]
    pub text: String,
}

#[derive(Message, Serialize)]
pub(super) struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIp>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientIp {
    #[prost(int32, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerStatus>,
}

#[derive(Message, Serialize)]
pub(super) struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Ingress>,
}

/// core/v1 LoadBalancerIngress
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ingress {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_mode: Option<String>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

#[derive(Message, Serialize)]
pub(super) struct Conditions {
    #[prost(bool, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hints {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<Named>,
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<Named>,
}

/// discovery/v1 ForZone, ForNode
#[derive(Message, Serialize)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Message, Serialize)]
pub(super) struct EndpointPort {
    #[prost(string, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let time = Timestamp::from_second(self.seconds).map_err(serde::ser::Error::custom)?;
        to.collect_str(&time)
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.which {
            0 => to.serialize_i32(self.number),
            _ => to.serialize_str(&self.text),
        }
    }
}

fn lossy<S: Serializer>(text: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(text))
}

fn lossy_values<S: Serializer>(
    pairs: &BTreeMap<String, Vec<u8>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(key, value)| (key, String::from_utf8_lossy(value))))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// Go's zero time is written as a Time without seconds.
fn is_no_time(time: &Option<Time>) -> bool {
    time.as_ref().is_none_or(|time| time.seconds == 0)
}
