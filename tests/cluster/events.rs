//! Events as the API shows them, and what is measured from what the API says.

use crate::control_plane::Authorization;
use crate::runner::Case;
use crate::world::World;
use crate::{SERVICES, SLICES, service, slice};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Duration;

pub const CASES: &[Case] = &[
    ("the start, what cannot be set and a repaired edit are Events of the Node", of_the_node),
    ("a mode that others stand for, and ports that are taken, are Events of the Node", of_ports),
    (
        "who loses an address and a health check that cannot be answered are Events of the Service",
        of_a_service,
    ),
    ("without the right to make Events that is told once, and all else goes on", forbidden),
    ("60 a slice that says what it follows from is measured once, a deletion not at all", measured),
    ("/configz shows what is in force, as the file changes too", configz),
];

const RIGHTS: &str = include_str!("../../examples/kubernetes/rbac.yaml");
const METRICS: &str = "http://127.0.0.1:10249/metrics";
const CONFIGZ: &str = "http://127.0.0.1:10249/configz";
const EDIT: &str = "nft flush chain inet vipd refuse";

/// As `kubectl describe` asks: by kind, name and uid. The API server has Events of its own about a
/// Service whose addresses it has not seen allocated yet.
fn described(w: &World, (kind, name): (&str, &str), uid: &str) -> Vec<Value> {
    let selector =
        format!("involvedObject.kind={kind},involvedObject.name={name},involvedObject.uid={uid}");
    let list = w.plane.get(&format!("/api/v1/events?fieldSelector={selector}"));
    let all = list["items"].as_array().into_iter().flatten();
    all.filter(|event| event["reportingComponent"] == "vipd").cloned().collect()
}

fn has(events: &[Value], reason: &str) -> bool {
    events.iter().any(|event| event["reason"] == reason)
}

/// A world with the rights of the example, and vipd in it.
fn allowed(flags: &[&str]) -> World {
    let mut w = World::start(Authorization::Rbac);
    w.apply_rights(RIGHTS);
    w.run(flags);
    w
}

fn of_the_node() {
    // Only the first network namespace may size the table.
    let w = allowed(&["--proxy-mode=ipvs", "--conntrack-min=100000000"]);
    let node = || described(&w, ("Node", "node-a"), "node-a");
    w.soon("the start", || has(&node(), "Starting"));
    w.soon("the mode", || has(&node(), "IPVSDeprecation"));
    w.soon("what cannot be set", || has(&node(), "SysctlNotWritten"));
    w.plane.post(SERVICES, &service("web", "10.254.0.41"));
    w.soon("a service", || w.holds("services4", "10.254.0.41"));
    w.node.sh(EDIT);
    w.soon("the repair", || has(&node(), "ForeignEditRepaired"));
    w.node.sh(EDIT);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    w.soon("that it happened again", || {
        let all = w.plane.get(path);
        let items = all["items"].as_array().into_iter().flatten();
        let mut edits = items.filter(|event| event["reason"] == "ForeignEditRepaired");
        edits.all(|event| event["series"]["count"] == 2)
    });
    let events = node();
    let edits = events.iter().filter(|event| event["reason"] == "ForeignEditRepaired");
    assert_eq!(edits.count(), 1, "{events:?}");
    assert!(events.iter().all(|event| event["metadata"]["namespace"] == "default"), "{events:?}");
}

fn of_ports() {
    let mut w = World::start(Authorization::Rbac);
    w.apply_rights(RIGHTS);
    let taken = ["0.0.0.0:10256", "127.0.0.1:10249"]
        .map(|at| w.node.enter(|| TcpListener::bind(at)).expect("a free port"));
    w.run(&["--proxy-mode=iptables"]);
    let node = || described(&w, ("Node", "node-a"), "node-a");
    for (reason, part) in [
        ("OtherProxyMode", "iptables"),
        ("FailedToStartProxierHealthcheck", "10256"),
        ("FailedToStartMetricServer", "10249"),
    ] {
        w.soon(reason, || has(&node(), reason));
        let events = node();
        let mut of = events.iter().filter(|event| event["reason"] == reason);
        let event = of.next().expect("seen above");
        let note = event["message"].as_str().unwrap_or_default();
        assert!(note.contains(part) && event["type"] == "Warning", "{event}");
        assert_eq!(of.count(), 0, "once each");
    }
    drop(taken);
    let code =
        |url: &str| w.node.try_sh(&format!("curl -s -o /dev/null -w '%{{http_code}}' {url}")).out;
    w.soon("the metrics, when the port is free", || code(METRICS) == "200");
    w.soon("the health too", || code("http://127.0.0.1:10256/livez") == "200");
}

fn of_a_service() {
    let mut w = World::start(Authorization::Rbac);
    w.apply_rights(RIGHTS);
    let taken = w.node.enter(|| TcpListener::bind("127.0.0.1:32100")).expect("a free port");
    let mut first = service("first", "10.254.0.41");
    first["spec"]["externalIPs"] = json!(["198.51.100.7"]);
    let mut second = service("second", "10.254.0.42");
    second["spec"]["externalIPs"] = json!(["198.51.100.7"]);
    let mut checked = service("checked", "10.254.0.43");
    checked["spec"]["type"] = "LoadBalancer".into();
    checked["spec"]["externalTrafficPolicy"] = "Local".into();
    checked["spec"]["healthCheckNodePort"] = 32100.into();
    for service in [&first, &second, &checked] {
        w.plane.post(SERVICES, service);
    }
    w.run(&["--nodeport-addresses=127.0.0.0/8"]);
    let of = |name: &str| {
        let service = w.plane.get(&format!("{SERVICES}/{name}"));
        described(&w, ("Service", name), service["metadata"]["uid"].as_str().expect("a uid"))
    };
    w.soon("who lost", || has(&of("second"), "FrontendHeldByOther"));
    let events = of("second");
    let note = events[0]["message"].as_str().unwrap_or_default();
    assert!(note.contains("198.51.100.7:80/TCP is held by Service default/first"), "{note}");
    assert_eq!((events.len(), of("first").len()), (1, 0), "{events:?}");
    let node = || described(&w, ("Node", "node-a"), "node-a");
    w.soon("that no mode is given", || has(&node(), "KubeProxyDefaultMode"));
    w.soon("the health check", || has(&of("checked"), "FailedToStartServiceHealthcheck"));
    drop(taken);
    // What is said again of the same is no other Event.
    second["metadata"]["labels"] = json!({"again": "yes"});
    let now = w.plane.get(&format!("{SERVICES}/second"));
    second["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    w.plane.put(&format!("{SERVICES}/second"), &second);
    w.plane.post(SERVICES, &service("after", "10.254.0.44"));
    w.soon("what comes after", || w.holds("services4", "10.254.0.44"));
    assert_eq!(of("second").len(), 1);
}

fn forbidden() {
    let mut w = World::start(Authorization::Rbac);
    let rule = RIGHTS.find("  - apiGroups: [events.k8s.io]").expect("the example grants it");
    let end = RIGHTS[rule..].find("---").expect("the role ends");
    w.apply_rights(&format!("{}{}", &RIGHTS[..rule], &RIGHTS[rule + end..]));
    w.run(&[]);
    let refusals =
        || w.log().replace('\\', "").matches("cannot create resource \"events\"").count();
    w.soon("the refusal", || refusals() == 1);
    assert!(w.log().contains("create and patch of events in events.k8s.io"), "{}", w.log());
    w.plane.post(SERVICES, &service("web", "10.254.0.41"));
    w.soon("a service", || w.holds("services4", "10.254.0.41"));
    w.node.sh(EDIT);
    w.soon("a repair", || w.log().contains("repaired"));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(refusals(), 1, "{}", w.log());
}

/// Samples of IPv4, and their sum in seconds.
fn programming(w: &World) -> (u64, f64) {
    let said = w.node.sh(&format!("curl -s {METRICS}"));
    let of = |part: &str| {
        let name =
            format!("kubeproxy_network_programming_duration_seconds_{part}{{ip_family=\"IPv4\"}} ");
        let value = said.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("no {name} in:\n{said}")).to_owned()
    };
    (of("count").parse().expect("a number"), of("sum").parse().expect("a number"))
}

fn measured() {
    let w = allowed(&[]);
    w.plane.post(SERVICES, &service("web", "10.254.0.41"));
    w.soon("a service", || w.holds("services4", "10.254.0.41"));
    let pods = |pods: &[&str], seconds_ago: &str| {
        let at = w.node.sh(&format!("date -u -d '{seconds_ago} seconds ago' +%FT%TZ"));
        let mut slice = slice("web", pods);
        slice["metadata"]["annotations"] =
            json!({"endpoints.kubernetes.io/last-change-trigger-time": at.trim()});
        slice
    };
    let path = format!("{SLICES}/web-1");
    // So that three seconds ago lies after its start.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(programming(&w), (0, 0.0));
    w.plane.post(SLICES, &pods(&["10.1.0.1"], "3"));
    w.soon("the sample", || programming(&w).0 == 1);
    let (_, sum) = programming(&w);
    assert!((3.0..30.0).contains(&sum), "{sum} s");
    // Another annotation, the same endpoints.
    w.plane.put(&path, &pods(&["10.1.0.1"], "1"));
    w.plane.put(&path, &slice("web", &["10.1.0.2"]));
    w.soon("a change without the annotation", || w.holds("endpoints4", "10.1.0.2"));
    // From before the start.
    w.plane.put(&path, &pods(&["10.1.0.3"], "3600"));
    w.soon("an old one", || w.holds("endpoints4", "10.1.0.3"));
    w.plane.put(&path, &pods(&["10.1.0.4"], "1"));
    w.soon("a second sample", || programming(&w).0 == 2);
    w.plane.delete(&path);
    w.soon("the end", || !w.holds("endpoints4", "10.1.0.4"));
    assert_eq!(programming(&w).0, 2);
}

fn configz() {
    let mut w = World::start(Authorization::AlwaysAllow);
    let file = |kubeconfig: &str, more: &str| {
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nclusterCIDR: 10.1.0.0/16\nnodePortAddresses: [127.0.0.0/8]\n\
             clientConnection: {{kubeconfig: {kubeconfig}}}\n{more}"
        )
    };
    let (path, kubeconfig) = w.run_with_file(|kubeconfig| file(kubeconfig, ""));
    let ask = |flags: &str| w.node.try_sh(&format!("curl -sf {flags} {CONFIGZ}"));
    w.soon("an answer", || ask("").code == 0);
    let said = || serde_json::from_str::<Value>(&ask("").out).expect("JSON");
    let all = said();
    let of = &all["kubeproxy.config.k8s.io"];
    assert_eq!(of["kind"], "KubeProxyConfiguration");
    assert_eq!((&of["mode"], &of["hostnameOverride"]), (&"nftables".into(), &"node-a".into()));
    assert_eq!(of["clusterCIDR"], "10.1.0.0/16");
    assert_eq!(of["detectLocalMode"], "ClusterCIDR");
    assert_eq!(of["nodePortAddresses"], json!(["127.0.0.0/8"]));
    assert_eq!(of["nftables"]["masqueradeAll"], false);
    let head = ask("-I").out;
    assert!(head.contains("200 OK") && head.contains("application/json"), "{head}");
    let changed = file(&kubeconfig, "nftables: {masqueradeAll: true}\n");
    std::fs::write(&path, changed).expect("it can be written");
    w.soon("the changed file", || {
        said()["kubeproxy.config.k8s.io"]["nftables"]["masqueradeAll"] == true
    });
}
