//! A cluster as manifests on disk, and changes of it by rename. EDGE.
//!
//! In: a [`Cluster`] and an empty directory. Out: files.
//! Never: a file that vipd could read half-written.

use crate::Outcome;
use crate::generate::{
    Cluster, EndpointSpec, NAMESPACE, Outside, SERVICE_PORT, ServiceSpec, TARGET_PORT,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

fn directory(parent: &Path) -> Outcome<TempDir> {
    Ok(tempfile::Builder::new().prefix("vipd-bench-").tempdir_in(parent)?)
}

/// A directory on a tmpfs, where there is one.
pub fn in_memory() -> Outcome<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    directory(&parent)
}

/// Endpoints per EndpointSlice, as kube-controller-manager makes them (`--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;

/// Objects per file where services do not have a file each.
const PER_FILE: usize = 1_000;

/// The manifests of a cluster. The first `singles` services have a file each, so that a change of
/// one costs what a change of one file costs; the others share files of 1,000 objects.
#[derive(Debug)]
pub struct Manifests {
    directory: TempDir,
    format: Format,
    singles: usize,
}

impl Manifests {
    pub fn write(cluster: &Cluster, format: Format, singles: usize) -> Outcome<Self> {
        Self::write_in(directory(&std::env::temp_dir())?, cluster, (format, singles))
    }

    /// Where a rename costs next to nothing: what a disk's file system does meanwhile is not vipd's.
    pub fn write_in_memory(cluster: &Cluster, format: Format, singles: usize) -> Outcome<Self> {
        Self::write_in(in_memory()?, cluster, (format, singles))
    }

    fn write_in(
        directory: TempDir,
        cluster: &Cluster,
        (format, singles): (Format, usize),
    ) -> Outcome<Self> {
        let manifests = Self { directory, format, singles };
        std::fs::create_dir(manifests.path())?;
        std::fs::create_dir(manifests.staging())?;
        for index in 0..singles {
            manifests.update(cluster, index)?;
        }
        for first in (singles..cluster.services.len()).step_by(PER_FILE / 2) {
            manifests.update(cluster, first)?;
        }
        Ok(manifests)
    }

    /// As an API server holds them: a file for each Service and for each of its EndpointSlices.
    pub fn write_objects_in_memory(cluster: &Cluster) -> Outcome<Self> {
        let manifests = Self { directory: in_memory()?, format: Format::Json, singles: 0 };
        std::fs::create_dir(manifests.path())?;
        std::fs::create_dir(manifests.staging())?;
        for (index, spec) in cluster.services.iter().enumerate() {
            std::fs::write(manifests.path().join(format!("{index:06}.json")), service_alone(spec))?;
            for endpoint in (0..spec.endpoints.len()).step_by(PER_SLICE) {
                manifests.stage_slice(cluster, (index, endpoint))?.publish()?;
            }
        }
        Ok(manifests)
    }

    /// Writes the file of the slice that an endpoint is in beside its place.
    pub fn stage_slice(
        &self,
        cluster: &Cluster,
        (service, endpoint): (usize, usize),
    ) -> Outcome<Staged> {
        let name = format!("{service:06}-{:03}.json", endpoint / PER_SLICE);
        let staged = Staged { from: self.staging().join(&name), to: self.path().join(&name) };
        std::fs::write(&staged.from, slice_alone(&cluster.services[service], endpoint))?;
        Ok(staged)
    }

    /// What `--manifests` names.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// On the same file system, but not watched.
    fn staging(&self) -> PathBuf {
        self.directory.path().join("staging")
    }

    /// One service of each file that holds any of these.
    pub fn files_of(&self, services: &[usize]) -> BTreeSet<usize> {
        services.iter().map(|&service| self.first_of(service)).collect()
    }

    fn first_of(&self, service: usize) -> usize {
        match service.checked_sub(self.singles) {
            Some(offset) => service - offset % (PER_FILE / 2),
            None => service,
        }
    }

    /// Replaces the file that holds a service by one rename.
    pub fn update(&self, cluster: &Cluster, service: usize) -> Outcome<()> {
        self.stage(cluster, service)?.publish()
    }

    /// Writes the file that holds a service beside its place.
    pub fn stage(&self, cluster: &Cluster, service: usize) -> Outcome<Staged> {
        let first = self.first_of(service);
        let count = if service < self.singles { 1 } else { PER_FILE / 2 };
        let range = first..(first + count).min(cluster.services.len());
        let extension = match self.format {
            Format::Json => "json",
            Format::Yaml => "yaml",
        };
        let name = format!("{:06}.{extension}", range.start);
        let staged = Staged { from: self.staging().join(&name), to: self.path().join(&name) };
        std::fs::write(&staged.from, text(&cluster.services[range], self.format))?;
        Ok(staged)
    }
}

/// A file that is one rename away from being seen.
#[derive(Debug)]
pub struct Staged {
    from: PathBuf,
    to: PathBuf,
}

impl Staged {
    pub fn publish(self) -> Outcome<()> {
        Ok(std::fs::rename(self.from, self.to)?)
    }
}

/// A directory's size, for the record of what was decoded.
pub fn bytes_in(directory: &Path) -> Outcome<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

pub fn text(services: &[ServiceSpec], format: Format) -> String {
    let objects = services.iter().flat_map(|s| std::iter::once(service(s)).chain(slices(s)));
    match format {
        Format::Json => {
            let items: Vec<Value> = objects.collect();
            json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
        }
        Format::Yaml => {
            let mut out = String::new();
            for object in objects {
                out.push_str("---\n");
                yaml(&object, 0, &mut out);
            }
            out
        }
    }
}

/// What a change of nothing but the Service object brings.
pub fn service_alone(spec: &ServiceSpec) -> String {
    service(spec).to_string()
}

/// What a change of one endpoint brings: the slice that it is in.
pub fn slice_alone(spec: &ServiceSpec, endpoint: usize) -> String {
    let number = endpoint / PER_SLICE;
    let first = number * PER_SLICE;
    let last = (first + PER_SLICE).min(spec.endpoints.len());
    slice(spec, (number, &spec.endpoints[first..last])).to_string()
}

fn service(spec: &ServiceSpec) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": spec.name,
            "namespace": NAMESPACE,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": spec.name},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": spec.cluster_ip,
            "clusterIPs": [spec.cluster_ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": if spec.local { "Local" } else { "Cluster" },
            "sessionAffinity": if spec.sticky { "ClientIP" } else { "None" },
            "selector": {"app": spec.name},
            "ports": [{"name": "http", "protocol": "TCP", "port": SERVICE_PORT,
                       "targetPort": TARGET_PORT}],
        },
    });
    if spec.sticky {
        object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    match &spec.outside {
        Outside::Nowhere => {}
        Outside::NodePort(number) => {
            object["spec"]["type"] = json!("NodePort");
            object["spec"]["ports"][0]["nodePort"] = json!(number);
        }
        Outside::Vip { address, ranges } => {
            object["spec"]["type"] = json!("LoadBalancer");
            object["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
            if !ranges.is_empty() {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                object["spec"]["loadBalancerSourceRanges"] = json!(ranges);
            }
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
        }
    }
    object
}

/// A service without endpoints has one empty slice.
fn slices(spec: &ServiceSpec) -> impl Iterator<Item = Value> {
    let empty = spec.endpoints.is_empty().then_some(&[][..]);
    let chunks = spec.endpoints.chunks(PER_SLICE).chain(empty);
    chunks.enumerate().map(move |numbered| slice(spec, numbered))
}

fn slice(spec: &ServiceSpec, (number, endpoints): (usize, &[EndpointSpec])) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": endpoint.node,
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE,
                              "name": format!("{}-{}", spec.name, endpoint.address)},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{number:05}", spec.name),
            "namespace": NAMESPACE,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {
                "kubernetes.io/service-name": spec.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
        "endpoints": endpoints,
    })
}

/// Block style, as `kubectl get -o yaml` prints. Strings that could be read as something else are
/// quoted.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                out.extend(std::iter::repeat_n(' ', indent));
                out.push_str(name);
                out.push(':');
                yaml_after_key(field, indent + 2, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.extend(std::iter::repeat_n(' ', indent));
                out.push('-');
                if item.is_object() {
                    let start = out.len();
                    yaml(item, indent + 2, out);
                    // The first field stands behind the dash.
                    out.replace_range(start..start + indent + 1, "");
                } else {
                    yaml_after_key(item, indent + 2, out);
                }
            }
        }
        scalar => yaml_after_key(scalar, indent, out),
    }
}

fn yaml_after_key(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) => {
            out.push('\n');
            yaml(value, indent, out);
        }
        Value::String(text) => {
            let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
                && !["None", "null", "true", "false"].contains(&text.as_str());
            out.push(' ');
            if plain {
                out.push_str(text);
            } else {
                out.push('"');
                out.push_str(text);
                out.push('"');
            }
            out.push('\n');
        }
        scalar => {
            out.push(' ');
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
}
