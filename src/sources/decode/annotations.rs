//! What a Service's `vipd.io/…` annotations ask for.
//!
//! In: metadata. Out: what is right of it, each word for itself.
//! Never: a Service that is not served for a word in an annotation.

use super::fields::{Fault, unsupported};
use super::findings::{annotation_of, right};
use crate::model::{
    Annotations, Balancer, MaxConnections, OwnLimits, ProxyMode, ProxyProtocol, Unit, parse_timeout,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const DATAPLANE: &str = "vipd.io/dataplane";
const BALANCER: &str = "vipd.io/balancer";
const PROXY_PROTOCOL: &str = "vipd.io/proxy-protocol";
const REQUESTS: &str = "vipd.io/requests";
const MAX_CONNECTIONS: &str = "vipd.io/max-connections";
const IDLE_TIMEOUT: &str = "vipd.io/idle-timeout";
const HALF_CLOSED_TIMEOUT: &str = "vipd.io/half-closed-timeout";
const CONNECT_TIMEOUT: &str = "vipd.io/connect-timeout";
const SESSION_TIMEOUT: &str = "vipd.io/session-timeout";

/// A word that is not known costs only itself: the Service is served as if it were not there.
pub(super) fn words(meta: &ObjectMeta, warnings: &mut Vec<Fault>) -> Annotations {
    if meta.annotations.is_none() {
        return Annotations::default();
    }
    let mode = word(meta, DATAPLANE, &ProxyMode::ALL.map(|mode| (mode.name(), mode)));
    let all = Balancer::ALL.map(|balancer| (balancer.name(), balancer));
    let balancer = word(meta, BALANCER, &all);
    let all = ProxyProtocol::ALL.map(|version| (version.name(), version));
    let proxy_protocol = word(meta, PROXY_PROTOCOL, &all);
    let units = [("true", Unit::Requests), ("false", Unit::Connections)];
    let unit = word(meta, REQUESTS, &units);
    let mode = right(mode.into_iter(), warnings).next();
    let balancer = right(balancer.into_iter(), warnings).next();
    let proxy_protocol = right(proxy_protocol.into_iter(), warnings).next();
    let unit = right(unit.into_iter(), warnings).next();
    Annotations::new(mode, balancer, proxy_protocol).with_unit(unit.unwrap_or_default())
}

/// What an annotation says, of the words that it may.
fn word<T: Copy>(meta: &ObjectMeta, name: &str, words: &[(&str, T)]) -> Option<Result<T, Fault>> {
    let given = annotation_of(meta, name)?;
    let known = words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
    Some(known.ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        unsupported(&field(name), given, &words.join(", "))
    }))
}

/// Bounds of what vipd carries for the Service.
pub(super) fn limits(meta: &ObjectMeta, warnings: &mut Vec<Fault>) -> OwnLimits {
    if meta.annotations.is_none() {
        return OwnLimits::default();
    }
    let mut timeout = |name| value(meta, name, parse_timeout, warnings);
    OwnLimits {
        idle: timeout(IDLE_TIMEOUT),
        half_closed: timeout(HALF_CLOSED_TIMEOUT),
        connect: timeout(CONNECT_TIMEOUT),
        session: timeout(SESSION_TIMEOUT),
        connections: value(meta, MAX_CONNECTIONS, MaxConnections::parse, warnings),
    }
}

/// What an annotation says, if it can be read.
fn value<T>(
    meta: &ObjectMeta,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    warnings: &mut Vec<Fault>,
) -> Option<T> {
    let given = annotation_of(meta, name)?;
    let read = parse(given);
    let read = read.map_err(|expected| Fault::new(field(name), format!("{given:?}: {expected}")));
    right(std::iter::once(read), warnings).next()
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}
