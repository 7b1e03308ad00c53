//! Services, slices and Nodes in few words.
//!
//! In: builders. Out: Kubernetes objects, and the files they go into.
//! Never: I/O.

use super::plan::{CASE_SERVICE, Family, NODE_A, V4, V6, Who};
use super::servers::{Proto, Tcp, Udp};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// One file's worth of objects.
pub struct File {
    pub name: String,
    pub objects: Vec<Value>,
}

/// Anything that becomes manifest files for one IP family.
pub trait Manifest {
    fn files(&self, family: Family) -> Vec<File>;
}

/// One endpoint of a slice.
#[derive(Clone)]
pub struct Ep {
    who: Option<Who>,
    host: Option<&'static str>,
    addresses: Vec<IpAddr>,
    conditions: Map<String, Value>,
    zones: Vec<&'static str>,
    nodes: Vec<&'static str>,
}

pub fn ep(who: Who) -> Ep {
    let conditions = Map::from_iter([("ready".to_owned(), json!(true))]);
    Ep {
        who: Some(who),
        host: who.host(),
        addresses: Vec::new(),
        conditions,
        zones: Vec::new(),
        nodes: Vec::new(),
    }
}

/// An endpoint of L1's extra range.
pub fn extra(address: IpAddr) -> Ep {
    Ep { addresses: vec![address], ..ep(Who::L1) }
}

/// Terminating, still serving.
pub fn draining(who: Who) -> Ep {
    ep(who).draining()
}

/// Terminating, no longer serving.
pub fn gone(who: Who) -> Ep {
    ep(who).draining().condition("serving", false)
}

impl Ep {
    fn condition(mut self, name: &str, value: bool) -> Ep {
        self.conditions.insert(name.to_owned(), json!(value));
        self
    }

    pub fn not_ready(self) -> Ep {
        self.condition("ready", false)
    }

    pub fn draining(self) -> Ep {
        self.condition("ready", false).condition("serving", true).condition("terminating", true)
    }

    pub fn zones<const N: usize>(mut self, zones: [&'static str; N]) -> Ep {
        self.zones = zones.to_vec();
        self
    }

    pub fn nodes<const N: usize>(mut self, nodes: [&'static str; N]) -> Ep {
        self.nodes = nodes.to_vec();
        self
    }

    /// As in a slice that was written by hand: nobody says where it runs.
    pub fn without_node(self) -> Ep {
        Ep { host: None, ..self }
    }

    /// In place of its pod's one address.
    pub fn addresses(mut self, addresses: Vec<IpAddr>) -> Ep {
        self.addresses = addresses;
        self
    }

    fn value(&self, family: Family) -> Value {
        let mut addresses = self.addresses.clone();
        if let (true, Some(who)) = (addresses.is_empty(), self.who) {
            addresses.push(family.address(who));
        }
        let mut value = json!({"addresses": addresses, "conditions": self.conditions});
        if let Some(host) = self.host {
            value["nodeName"] = json!(host);
        }
        if !self.zones.is_empty() {
            let zones: Vec<Value> = self.zones.iter().map(|zone| json!({"name": zone})).collect();
            value["hints"]["forZones"] = json!(zones);
        }
        if !self.nodes.is_empty() {
            let nodes: Vec<Value> = self.nodes.iter().map(|node| json!({"name": node})).collect();
            value["hints"]["forNodes"] = json!(nodes);
        }
        value
    }
}

impl From<Who> for Ep {
    fn from(who: Who) -> Ep {
        ep(who)
    }
}

/// A named port of a slice or a Service.
#[derive(Clone, Copy)]
pub struct Port {
    pub name: &'static str,
    pub number: u16,
    pub proto: Proto,
    pub target: Option<u16>,
    pub node_port: Option<u16>,
    pub app_protocol: Option<&'static str>,
}

impl Port {
    fn value(self, key: &str) -> Value {
        let mut value = json!({key: self.number, "protocol": self.proto.kubernetes()});
        if !self.name.is_empty() {
            value["name"] = json!(self.name);
        }
        if let Some(target) = self.target {
            value["targetPort"] = json!(target);
        }
        if let Some(node_port) = self.node_port {
            value["nodePort"] = json!(node_port);
        }
        if let Some(spoken) = self.app_protocol {
            value["appProtocol"] = json!(spoken);
        }
        value
    }

    /// As slices have it: the empty name is written out.
    fn slice_value(self) -> Value {
        json!({"name": self.name, "port": self.number, "protocol": self.proto.kubernetes()})
    }

    /// `targetPort` of a Service's port, which a proxy never reads.
    pub fn target(mut self, port: u16) -> Port {
        self.target = Some(port);
        self
    }

    /// Of a Service's port.
    pub fn node_port(mut self, port: u16) -> Port {
        self.node_port = Some(port);
        self
    }
}

pub fn tcp(name: &'static str, number: u16) -> Port {
    port(name, number, Tcp)
}

pub fn udp(name: &'static str, number: u16) -> Port {
    port(name, number, Udp)
}

pub fn port(name: &'static str, number: u16, proto: Proto) -> Port {
    Port { name, number, proto, target: None, node_port: None, app_protocol: None }
}

/// An EndpointSlice of the service `svc`.
#[derive(Clone)]
pub struct Slice {
    service: String,
    suffix: String,
    endpoints: Vec<Ep>,
    ports: Vec<Port>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    address_type: Option<Family>,
}

pub fn slice(endpoints: impl IntoIterator<Item = impl Into<Ep>>) -> Slice {
    Slice {
        service: "svc".to_owned(),
        suffix: "a".to_owned(),
        endpoints: endpoints.into_iter().map(Into::into).collect(),
        ports: vec![tcp("", 8080)],
        labels: Map::new(),
        annotations: Map::new(),
        address_type: None,
    }
}

/// A slice without endpoints.
pub fn no_endpoints() -> Slice {
    slice([] as [Who; 0])
}

impl Slice {
    pub fn of(mut self, service: impl Into<String>) -> Slice {
        self.service = service.into();
        self
    }

    /// Further slices of one service need names of their own.
    pub fn named(mut self, suffix: impl Into<String>) -> Slice {
        self.suffix = suffix.into();
        self
    }

    pub fn ports(mut self, ports: impl Into<Vec<Port>>) -> Slice {
        self.ports = ports.into();
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Slice {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Slice {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Of this family, whatever the case's.
    pub fn only(mut self, family: Family) -> Slice {
        self.address_type = Some(family);
        self
    }

    fn value(&self, family: Family) -> Value {
        let family = self.address_type.unwrap_or(family);
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/service-name".to_owned(), json!(self.service));
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.service, self.suffix),
                "namespace": "default",
                "labels": labels,
                "annotations": self.annotations,
            },
            "addressType": family.kubernetes(),
            "endpoints": self.endpoints.iter().map(|one| one.value(family)).collect::<Vec<_>>(),
            "ports": self.ports.iter().map(|one| one.slice_value()).collect::<Vec<_>>(),
        })
    }

    fn file_name(&self) -> String {
        format!("{}-slice-{}.yaml", self.service, self.suffix)
    }
}

impl Manifest for Slice {
    fn files(&self, family: Family) -> Vec<File> {
        vec![File { name: self.file_name(), objects: vec![self.value(family)] }]
    }
}

/// A Service, and its slice where it was given endpoints.
#[derive(Clone)]
pub struct Svc {
    name: String,
    number: u8,
    address: Option<IpAddr>,
    families: Option<[Family; 2]>,
    ports: Vec<Port>,
    spec: Map<String, Value>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    /// `status.loadBalancer.ingress`; `None` where there is no load balancer.
    ingress: Option<Vec<IpAddr>>,
    ip_mode: Option<&'static str>,
    created: Option<&'static str>,
    slice: Option<Slice>,
}

/// `svc`, cluster IP 41, port 80 to port 8080, TCP.
pub fn svc() -> Svc {
    Svc {
        name: "svc".to_owned(),
        number: CASE_SERVICE,
        address: None,
        families: None,
        ports: vec![tcp("", 80)],
        spec: Map::new(),
        labels: Map::new(),
        annotations: Map::new(),
        ingress: None,
        ip_mode: None,
        created: None,
        slice: None,
    }
}

impl Svc {
    pub fn named(mut self, name: impl Into<String>, number: u8) -> Svc {
        self.name = name.into();
        self.number = number;
        self
    }

    /// This cluster IP in place of one by number.
    pub fn at(mut self, address: IpAddr) -> Svc {
        self.address = Some(address);
        self
    }

    pub fn dual_stack(mut self) -> Svc {
        self.families = Some([V4, V6]);
        self.spec("ipFamilyPolicy", json!("RequireDualStack"))
    }

    pub fn ports(mut self, ports: impl Into<Vec<Port>>) -> Svc {
        self.ports = ports.into();
        self
    }

    pub fn port(self, number: u16) -> Svc {
        self.ports([tcp("", number)])
    }

    /// One UDP port, 80 to 8080. Before `on`.
    pub fn udp(self) -> Svc {
        self.ports([udp("", 80)])
    }

    pub fn spec(mut self, key: &str, value: Value) -> Svc {
        self.spec.insert(key.to_owned(), value);
        self
    }

    pub fn local(self) -> Svc {
        self.spec("internalTrafficPolicy", json!("Local"))
    }

    /// Of its first port: after `ports`.
    pub fn node_port(mut self, number: u16) -> Svc {
        self.ports[0].node_port = Some(number);
        self
    }

    /// Type LoadBalancer with these addresses; none: the load balancer is still being made.
    pub fn load_balancer(mut self, vips: impl IntoIterator<Item = IpAddr>) -> Svc {
        self.ingress = Some(vips.into_iter().collect());
        self
    }

    /// Of the load balancer's addresses: `VIP` or `Proxy`.
    pub fn ip_mode(mut self, mode: &'static str) -> Svc {
        self.ip_mode = Some(mode);
        self
    }

    pub fn external_ips(self, addresses: impl IntoIterator<Item = IpAddr>) -> Svc {
        self.spec("externalIPs", addresses.into_iter().map(|ip| json!(ip)).collect())
    }

    pub fn external_local(self) -> Svc {
        self.spec("externalTrafficPolicy", json!("Local"))
    }

    /// `loadBalancerSourceRanges`, as they are written.
    pub fn source_ranges(self, ranges: impl IntoIterator<Item = impl Into<String>>) -> Svc {
        let ranges = ranges.into_iter().map(|range| Value::String(range.into())).collect();
        self.spec("loadBalancerSourceRanges", ranges)
    }

    /// `healthCheckNodePort`
    pub fn health_port(self, number: u16) -> Svc {
        self.spec("healthCheckNodePort", json!(number))
    }

    pub fn sticky(self, seconds: u32) -> Svc {
        self.spec("sessionAffinity", json!("ClientIP"))
            .spec("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}))
    }

    /// `metadata.creationTimestamp`
    pub fn created(mut self, time: &'static str) -> Svc {
        self.created = Some(time);
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Svc {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }

    /// `vipd.io/name`
    pub fn annotated(mut self, name: &str, value: &str) -> Svc {
        self.annotations.insert(format!("vipd.io/{name}"), json!(value));
        self
    }

    /// `appProtocol` of its first port: after `ports`.
    pub fn speaking(mut self, protocol: &'static str) -> Svc {
        self.ports[0].app_protocol = Some(protocol);
        self
    }

    /// Carried by vipd itself.
    pub fn relayed(self) -> Svc {
        self.annotated("dataplane", "userspace")
    }

    /// With one slice of these endpoints on port 8080 of the service's protocol.
    pub fn on(mut self, endpoints: impl IntoIterator<Item = impl Into<Ep>>) -> Svc {
        let proto = self.ports[0].proto;
        let port = port(self.ports[0].name, 8080, proto);
        self.slice = Some(slice(endpoints).of(&self.name).ports([port]));
        self
    }

    /// After `on`: another port of the endpoints.
    pub fn to(mut self, number: u16) -> Svc {
        for port in self.slice.iter_mut().flat_map(|slice| &mut slice.ports) {
            port.number = number;
        }
        self
    }

    fn value(&self, family: Family) -> Value {
        let families = self.families.map_or(vec![family], |both| both.to_vec());
        let address = |family: &Family| self.address.unwrap_or(family.cluster_ip(self.number));
        let addresses: Vec<IpAddr> = families.iter().map(address).collect();
        let mut spec = self.spec.clone();
        spec.entry("type").or_insert(json!(self.service_type()));
        spec.entry("clusterIP").or_insert(json!(addresses[0]));
        spec.entry("clusterIPs").or_insert(json!(addresses));
        let names: Vec<&str> = families.iter().map(|one| one.kubernetes()).collect();
        spec.insert("ipFamilies".to_owned(), json!(names));
        spec.insert("ports".to_owned(), self.ports.iter().map(|one| one.value("port")).collect());
        let mut metadata =
            json!({"name": self.name, "namespace": "default", "labels": self.labels});
        if !self.annotations.is_empty() {
            metadata["annotations"] = json!(self.annotations);
        }
        if let Some(time) = self.created {
            metadata["creationTimestamp"] = json!(time);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": spec,
            "status": self.status(),
        })
    }

    /// What the ports and the load balancer ask for.
    fn service_type(&self) -> &'static str {
        match &self.ingress {
            Some(_) => "LoadBalancer",
            None if self.ports.iter().any(|port| port.node_port.is_some()) => "NodePort",
            None => "ClusterIP",
        }
    }

    fn status(&self) -> Value {
        let point = |ip: &IpAddr| match self.ip_mode {
            Some(mode) => json!({"ip": ip, "ipMode": mode}),
            None => json!({"ip": ip}),
        };
        match &self.ingress {
            Some(ips) => {
                json!({"loadBalancer": {"ingress": ips.iter().map(point).collect::<Vec<_>>()}})
            }
            None => json!({}),
        }
    }
}

impl Manifest for Svc {
    fn files(&self, family: Family) -> Vec<File> {
        let service =
            File { name: format!("{}.yaml", self.name), objects: vec![self.value(family)] };
        let slice = self.slice.iter().flat_map(|slice| slice.files(family));
        std::iter::once(service).chain(slice).collect()
    }
}

/// Objects that a case writes out itself, in one file.
pub struct Plain {
    pub name: &'static str,
    pub objects: Vec<Value>,
}

impl Manifest for Plain {
    fn files(&self, _: Family) -> Vec<File> {
        vec![File { name: format!("{}.yaml", self.name), objects: self.objects.clone() }]
    }
}

/// Many manifests in one file, so that they change together.
pub struct Together(pub String, pub Vec<Box<dyn Manifest>>);

impl Manifest for Together {
    fn files(&self, family: Family) -> Vec<File> {
        let objects = self.1.iter().flat_map(|one| one.files(family)).flat_map(|file| file.objects);
        vec![File { name: format!("{}.yaml", self.0), objects: objects.collect() }]
    }
}

/// A Node with its pod CIDRs, address and zone.
pub fn node(name: &'static str, zone: Option<&str>) -> Plain {
    let who = if name == NODE_A { Who::Node } else { Who::NodeB };
    node_at(name, zone, [V4, V6].map(|family| family.address(who)))
}

/// A node with these addresses, the first of its family in front.
pub fn node_at(name: &'static str, zone: Option<&str>, addresses: [IpAddr; 2]) -> Plain {
    let mut labels = Map::from_iter([("kubernetes.io/hostname".to_owned(), json!(name))]);
    if let Some(zone) = zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), json!(zone));
    }
    let cidrs = [V4.pod_cidr(name), V6.pod_cidr(name)];
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    });
    Plain { name, objects: vec![object] }
}
