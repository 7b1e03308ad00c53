//! The built command on small directories of manifests: what it prints, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDRs: [10.180.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {tier: front, app: web}}
spec:
  clusterIP: 10.254.0.41
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.180.0.1], nodeName: node-a}
- {addresses: [10.180.0.2], nodeName: node-a, conditions: {ready: false}}
- {addresses: [10.180.1.1], nodeName: node-b}
- {addresses: [10.180.1.2], nodeName: node-b}
- {addresses: [10.180.1.3], nodeName: node-b}
- {addresses: [10.180.1.4], nodeName: node-b}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: kube-system}
spec:
  clusterIPs: [10.254.0.10, "fd00:254::10"]
  ipFamilies: [IPv4, IPv6]
  sessionAffinity: ClientIP
  ports: [{name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-6, namespace: kube-system, labels: {kubernetes.io/service-name: dns}}
addressType: IPv6
ports: [{name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: ["fd00:180::1"], nodeName: node-a}]
---
apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {clusterIP: 10.254.0.300, ports: [{port: 80}]}
"#;

fn manifests(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("all.yaml"), text).unwrap();
    dir
}

fn vipd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.args(arguments);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VIPD_"))
    {
        command.env_remove(name);
    }
    command
}

/// Asks about `dir` as node-a, whose pods are those of 10.180.0.0/16.
fn ask(dir: &Path, arguments: &str) -> Output {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    vipd(&words)
        .current_dir(dir)
        .args(["--manifests", "."])
        .args(["--hostname-override", "node-a", "--cluster-cidr", "10.180.0.0/16"])
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// What a question that must be answered prints.
#[track_caller]
fn answer(arguments: &str) -> String {
    let dir = manifests(MANIFESTS);
    let output = ask(dir.path(), arguments);
    assert!(output.status.success(), "vipd {arguments}: {}", stderr(&output));
    assert_eq!(stderr(&output), "");
    stdout(&output).to_owned()
}

#[track_caller]
fn json(arguments: &str) -> serde_json::Value {
    serde_json::from_str(&answer(arguments)).unwrap()
}

/// A command that must fail: its exit code and what it says.
#[track_caller]
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = vipd(arguments).output().unwrap();
    assert_eq!(stdout(&output), "", "{arguments:?}");
    (output.status.code(), stderr(&output).to_owned())
}

#[test]
fn services_of_a_namespace_and_of_all() {
    insta::assert_snapshot!("services", answer("get services"));
    insta::assert_snapshot!("services-other-namespace", answer("get svc -n kube-system"));
    insta::assert_snapshot!("services-wide", answer("get svc -A -o wide"));
}

#[test]
fn endpoints_are_abbreviated_unless_wide() {
    insta::assert_snapshot!("endpoints", answer("get endpoints"));
    insta::assert_snapshot!("endpoints-wide", answer("get ep -A -o wide"));
}

#[test]
fn what_is_rejected() {
    insta::assert_snapshot!("rejected", answer("get rejected"));
}

#[test]
fn lists_as_json_and_yaml() {
    let list = json("get svc -A -o json");
    assert_eq!(list["kind"], "ServiceList");
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["items"][0]["name"], "web");
    assert_eq!(list["items"][1]["clusterIPs"][1], "fd00:254::10");
    assert_eq!(json("get svc web -o json")["endpoints"]["used"], 5);
    let yaml: serde_json::Value = serde_saphyr::from_str(&answer("get svc -A -o yaml")).unwrap();
    assert_eq!(yaml, list);
}

#[test]
fn a_service_described() {
    insta::assert_snapshot!("describe", answer("describe service web"));
    insta::assert_snapshot!("describe-dual-stack", answer("describe svc kube-system/dns"));
    assert_eq!(
        answer("describe service dns -n kube-system"),
        answer("describe service kube-system/dns")
    );
    assert_eq!(json("describe service web -o json")["ports"][0]["endpoints"][1]["used"], false);
}

/// With its only slice rejected a service has no endpoints, and who asks for it sees why.
#[test]
fn problems_of_a_services_slices_are_told_with_it() {
    let labelled = |name: &str, service: &str, rest: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, \
             labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\n{rest}\n"
        )
    };
    let dir = manifests(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: 10.254.0.41, \
         ports: [{{port: 80}}]}}\n{}{}{}",
        labelled("web-1", "web", "ports: [{port: 80x}]"),
        labelled("web-2", "web", "endpoints: [{addresses: [10.1.0.300]}, {addresses: [10.1.0.2]}]"),
        labelled("other-1", "other", "ports: [{port: 81x}]"),
    ));
    let output = ask(dir.path(), "describe service web");
    let (_, problems) = stdout(&output).split_once("Problems:").expect("the last part");
    let lines: Vec<_> = problems.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 3, "{problems}");
    assert!(lines[1].starts_with("rejected: EndpointSlice default/web-1: "), "{problems}");
    assert!(lines[1].contains("80x"), "{problems}");
    assert!(lines[2].starts_with("warning: EndpointSlice default/web-2: "), "{problems}");
    let missing = ask(dir.path(), "describe service other");
    assert!(stderr(&missing).ends_with("not found\n"), "{}", stderr(&missing));
}

/// Services that load balancers ask about: one that is answered for, and what keeps others from it.
#[test]
fn health_checks_described() {
    let balanced = |name: &str, number: u8, year: u16, rest: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, creationTimestamp: \
             {year}-01-01T00:00:00Z}}\nspec: {{clusterIPs: [10.254.0.{number}, \
             \"fd00:254::{number}\"], ipFamilies: [IPv4, IPv6], type: LoadBalancer, {rest}}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             {name}-4, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.180.0.{number}], nodeName: \
             node-a}}]\n"
        )
    };
    let local = |rest: &str| format!("externalTrafficPolicy: Local, {rest}");
    let dir = manifests(
        &[
            balanced("old", 1, 2020, &local("healthCheckNodePort: 30555, ports: [{port: 80}]")),
            balanced("a-young", 2, 2021, &local("healthCheckNodePort: 30555, ports: [{port: 80}]")),
            balanced(
                "ported",
                3,
                2020,
                &local("healthCheckNodePort: 30556, ports: [{port: 80, nodePort: 30556}]"),
            ),
            balanced("cluster", 4, 2020, "healthCheckNodePort: 30557, ports: [{port: 80}]"),
            balanced("plain", 5, 2020, &local("ports: [{port: 80}]")),
        ]
        .concat(),
    );
    let told = |name: &str, flags: &str| -> Vec<String> {
        let output = ask(dir.path(), &format!("describe service {name} {flags}"));
        assert!(output.status.success(), "{}", stderr(&output));
        let (part, _) = stdout(&output).split_once("\nProblems:").expect("the last part");
        part.lines()
            .filter(|line| line.to_lowercase().contains("healthcheck") || line.contains("Answer:"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(
        told("old", ""),
        [
            "HealthCheck NodePort: 30555",
            "Answer: 200 to IPv4: 1 ready endpoint on this node",
            "Answer: 503 to IPv6: 0 ready endpoints on this node"
        ]
    );
    let about = |name: &str, flags: &str| told(name, flags).pop().unwrap_or_default();
    assert!(about("a-young", "").ends_with("the port answers for Service default/old"));
    assert!(
        about("ported", "").ends_with("it is IPv4 node port 30556/TCP of Service default/ported")
    );
    assert!(
        about("cluster", "").contains("only of type LoadBalancer with externalTrafficPolicy Local")
    );
    let nowhere = "--nodeport-addresses 172.16.0.0/12,fd99::/16";
    assert!(about("old", nowhere).ends_with("this node has no address for node ports"));
    assert_eq!(about("plain", ""), "");
    let output = ask(dir.path(), "describe service a-young -o json");
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["health"]["port"], 30555);
    let problem = &json["problems"][0];
    assert_eq!(
        (&problem["severity"], &problem["field"]),
        (&"shadowed".into(), &"spec.healthCheckNodePort".into())
    );
}

#[test]
fn the_plan() {
    insta::assert_snapshot!("plan", answer("plan --service-cluster-ip-range 10.254.0.0/16"));
    assert_eq!(
        json("plan -o json")["services"][0]["ports"][0]["frontends"][0]["action"],
        "forward"
    );
}

/// What the walkthrough's `kubectl describe service` prints, from its Service and pods alone.
#[test]
fn the_walkthroughs_service_and_pods() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/walkthrough");
    let question = |words: &str, node: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = vipd(&words)
            .args(["--manifests", examples])
            .args(["--hostname-override", node])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "vipd {words:?}: {}", stderr(&output));
        stdout(&output).to_owned()
    };
    let minion = "--service-cluster-ip-range 10.254.0.0/16";
    insta::assert_snapshot!(
        "walkthrough-describe",
        question(&format!("describe service nginx-service {minion}"), "minion-1")
    );
    insta::assert_snapshot!("walkthrough-plan", question(&format!("plan {minion}"), "minion-1"));
    for node in ["minion-1", "minion-2", "elsewhere"] {
        let endpoints = question("get endpoints nginx-service -o wide", node);
        assert!(endpoints.contains("172.17.0.2:80,172.17.0.2:80,172.17.0.3:80"), "{endpoints}");
        assert!(endpoints.trim_end().ends_with("Pods"), "{endpoints}");
    }
    let rejected: serde_json::Value =
        serde_json::from_str(&question("get rejected -A -o json", "minion-1")).unwrap();
    assert_eq!(rejected["items"], serde_json::json!([]));
}

#[test]
fn packets_traced() {
    insta::assert_snapshot!("trace", answer("trace 203.0.113.2 10.254.0.41:80"));
    let hairpin = json("trace 10.180.0.1 10.254.0.41:80/tcp -o json");
    assert_eq!(hairpin["verdict"], "forward");
    assert!(hairpin["masquerade"].is_null());
    let itself = serde_json::json!({ "address": "10.180.0.1:8080", "masquerade": true });
    assert_eq!(hairpin["endpoints"][0], itself);
    let six = json("trace [fd00:180::9] [fd00:254::10]:53/UDP -o json");
    assert_eq!(six["endpoints"][0]["address"], "[fd00:180::1]:5353");
    let keys: Vec<_> = six.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["endpoints", "masquerade", "steps", "verdict"]);
    for (packet, verdict) in [
        ("10.180.0.9 10.254.0.41:81", "reject"),
        ("10.180.0.9 10.254.0.10:53/UDP", "reject"),
        ("10.180.0.9 10.254.9.9:80", "drop"),
        ("10.180.0.9 192.0.2.1:80", "pass"),
    ] {
        let arguments = format!("trace {packet} -o json --service-cluster-ip-range 10.254.0.0/16");
        assert_eq!(json(&arguments)["verdict"], verdict, "{packet}");
    }
}

#[test]
fn a_mode_that_relays_is_told_offline_too() {
    let relayed = |words: &str| answer(&format!("{words} --proxy-mode userspace"));
    let plan = relayed("plan");
    assert!(plan.contains("relayed by least-connections"), "{plan}");
    let trace = relayed("trace 10.180.0.9 10.254.0.41:80");
    assert!(
        trace.contains("vipd accepts the connection") && trace.contains("masqueraded"),
        "{trace}"
    );
    let described = relayed("describe service web");
    assert!(described.contains("Relay:      by vipd"), "{described}");
    assert!(!answer("plan --proxy-mode nftables").contains("relayed"));
    let (code, said) = refusal(&["plan", "--manifests", "/", "--proxy-mode", "ebpf"]);
    assert!(code == Some(2) && said.contains("ebpf"), "{said}");
}

#[test]
fn the_node_is_known_by_its_objects_addresses() {
    assert_eq!(json("trace 192.168.0.2 10.254.0.41:80 -o json")["masquerade"], true);
    assert_eq!(json("trace 10.180.0.9 10.254.0.41:80 -o json")["masquerade"], false);
}

#[test]
fn a_detector_that_asks_for_the_interface_gets_it_or_says_so() {
    let dir = manifests(MANIFESTS);
    let question = |interface: &[&str]| {
        vipd(&["trace", "10.180.0.9", "10.254.0.41:80", "-o", "json", "--manifests"])
            .arg(dir.path())
            .args(["--detect-local-mode", "InterfaceNamePrefix"])
            .args(["--pod-interface-name-prefix", "veth"])
            .args(interface)
            .output()
            .unwrap()
    };
    let without = question(&[]);
    assert_eq!(without.status.code(), Some(2));
    assert!(stderr(&without).contains("--in-interface"), "{}", stderr(&without));
    for (interface, masquerade) in [("veth7", false), ("eth0", true)] {
        let output = question(&["--in-interface", interface]);
        let trace: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(trace["masquerade"], masquerade, "{interface}");
    }
}

#[test]
fn nothing_found_is_told_as_kubectl_does() {
    let dir = manifests(MANIFESTS);
    let empty = ask(dir.path(), "get services -n empty");
    assert!(empty.status.success());
    assert_eq!(stdout(&empty), "");
    assert_eq!(stderr(&empty), "No resources found in empty namespace.\n");
    let rejected = ask(dir.path(), "describe service bad");
    assert!(stderr(&rejected).contains("10.254.0.300"), "{}", stderr(&rejected));
    for question in ["get svc nope", "describe service nope", "describe service empty/web"] {
        let output = ask(dir.path(), question);
        assert_eq!(output.status.code(), Some(1), "{question}");
        assert!(stderr(&output).contains("not found"), "{question}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{question}");
    }
}

#[test]
fn bad_input_is_named_and_ends_with_2() {
    let dir = manifests(MANIFESTS);
    let dir = dir.path().to_str().unwrap();
    for (arguments, parts) in [
        (vec!["get", "pods"], ["'pods'", "services"]),
        (vec!["get", "svc", "-o", "xml"], ["'xml'", "yaml"]),
        (vec!["get", "rejected", "x", "--manifests", dir], ["rejected", "NAMESPACE"]),
        (vec!["describe", "service", "a/b/c", "--manifests", dir], ["a/b/c", "NAMESPACE/NAME"]),
        (vec!["describe", "service", "a/b", "-n", "c", "--manifests", dir], ["a/b", "-n c"]),
        (vec!["trace", "here", "10.0.0.1:80"], ["'here'", "IP address"]),
        (vec!["trace", "10.0.0.1", "10.0.0.2:80/icmp"], ["icmp", "53/UDP"]),
        (vec!["trace", "10.0.0.1", "fd00::1:80"], ["fd00::1:80", "[fd00::1]:80"]),
        (vec!["trace", "10.0.0.1", "[fd00::1]:80", "--manifests", dir], ["10.0.0.1", "families"]),
        (vec!["plan", "--manifests", "/nonexistent"], ["/nonexistent", "check"]),
        (vec!["plan", "--manifests", "/dev/null"], ["/dev/null", "check"]),
        (vec!["plan", "--manifests", dir, "--cluster-cidr", "x"], ["--cluster-cidr", "'x'"]),
        (vec!["run"], ["--manifests", "--kubeconfig"]),
        (vec!["run", "--manifests", dir, "--min-sync-period", "5"], ["--min-sync-period", "1m30s"]),
        (
            vec!["run", "--manifests", dir, "--detect-local-mode", "BridgeInterface"],
            ["--pod-bridge-interface", "BridgeInterface"],
        ),
        (
            vec!["get", "svc", "--admin-socket", "/nonexistent/vipd.sock"],
            ["/nonexistent/vipd.sock", "is it running?"],
        ),
        (
            vec!["metrics", "--admin-socket", "/nonexistent/vipd.sock"],
            ["/nonexistent/vipd.sock", "is it running?"],
        ),
        (vec!["frobnicate"], ["frobnicate", "Usage"]),
    ] {
        let (code, text) = refusal(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {part} is missing in: {text}");
        }
    }
}

#[test]
fn the_environment_stands_for_flags() {
    let output = vipd(&["run", "--manifests", "/m"]).env("VIPD_MIN_SYNC_PERIOD", "soon").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'soon' for '--min-sync-period"), "{}", stderr(&output));
}

#[test]
fn host_bits_are_masked_and_told() {
    let dir = manifests(MANIFESTS);
    let output = ask(dir.path(), "plan --service-cluster-ip-range 10.254.3.4/16");
    assert!(output.status.success());
    assert!(stderr(&output).contains("used as 10.254.0.0/16"), "{}", stderr(&output));
    assert!(stdout(&output).contains("service ranges: 10.254.0.0/16\n"));
}

#[test]
fn a_cluster_ip_outside_the_service_range_is_served_and_told() {
    let dir = manifests(MANIFESTS);
    let flags = "--service-cluster-ip-range 10.96.0.0/12";
    let rejected = ask(dir.path(), &format!("get rejected -n default {flags}"));
    assert!(stdout(&rejected).contains("warning"), "{}", stdout(&rejected));
    assert!(stdout(&rejected).contains("10.254.0.41"), "{}", stdout(&rejected));
    let trace = ask(dir.path(), &format!("trace 10.180.0.9 10.254.0.41:80 -o json {flags}"));
    assert!(stdout(&trace).contains("\"forward\""));
}

#[test]
fn what_a_manifest_says_cannot_steer_the_terminal() {
    let dir = manifests(
        "apiVersion: v1\nkind: Service\nmetadata: {name: \"a\\e[31mb\\u009b\"}\nspec: {clusterIP: 10.254.0.9, ports: [{port: 80}]}\n",
    );
    for format in ["table", "json", "yaml"] {
        let output = ask(dir.path(), &format!("get rejected -o {format}"));
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("31m"), "the name is not told: {text}");
        let hostile = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(hostile, None, "{format}: {text:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let services: String = (0..5000)
        .map(|n| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{clusterIP: \
                 10.254.{}.{}, ports: [{{port: 80}}]}}\n",
                n / 250,
                n % 250 + 1
            )
        })
        .collect();
    let dir = manifests(&services);
    let mut child = vipd(&["get", "svc", "--manifests"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("NAME"), "{line}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_configuration_is_told_with_where_it_comes_from() {
    let dir = manifests(MANIFESTS);
    let file = dir.path().join("config.conf");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                clientConnection: {kubeconfig: /etc/kubeconfig, qps: 50}\nmode: ipvs\n\
                clusterCIDR: 10.1.0.0/16\nipvs: {scheduler: lc, minSyncPeriod: 2s}\n\
                conntrack: {maxPerCore: 0}\nclusterDomain: x\n";
    fs::write(&file, text).unwrap();
    let ask = |more: &[&str]| {
        let output = vipd(&["config", "--config", "config.conf", "--hostname-override=node-a"])
            .args(["--masquerade-all", "--drop-invalid=false", "--profiling"])
            .args(more)
            .env("VIPD_RESET_GONE_AFTER", "90s")
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        stdout(&output).to_owned()
    };
    insta::assert_snapshot!("config", ask(&[]));
    let json: serde_json::Value = serde_json::from_str(&ask(&["-o", "json"])).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(&ask(&["-o=yaml"])).unwrap();
    assert_eq!(json, yaml);
    let settings = json["settings"].as_array().unwrap();
    let find = |name: &str| settings.iter().find(|one| one["name"] == name).unwrap();
    let cidr = find("cluster-cidr");
    assert_eq!((&cidr["from"], &cidr["at"]), (&"file".into(), &"clusterCIDR".into()));
    let reset = find("reset-gone-after");
    assert_eq!(reset["from"], "environment");
    assert_eq!(reset["at"], "VIPD_RESET_GONE_AFTER");
    assert_eq!(find("min-sync-period")["value"], "2s");
    assert_eq!(json["withoutMeaning"].as_array().unwrap().len(), 3, "{json}");
}

#[test]
fn a_configuration_is_written_where_it_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("written.yaml");
    let to = format!("--write-config-to={}", path.display());
    let output = vipd(&[&to, "--cluster-cidr=10.1.0.0/16", "-v=3"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(&path).unwrap();
    for part in ["clusterCIDR: 10.1.0.0/16\n", "verbosity: 3\n", "mode: nftables\n"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let (code, said) = refusal(&["--write-config-to=/nonexistent/x", "--kubeconfig=/k"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/nonexistent/x"), "{said}");
    let (code, said) = refusal(&[&to, "--kube-api-burst=-1"]);
    assert!(code == Some(2) && said.contains("--kube-api-burst"), "{said}");
}

#[test]
fn completions_and_version() {
    for flags in [["--version"].as_slice(), &["--version=raw"], &["--config=/c", "--version=true"]]
    {
        let output = vipd(flags).output().unwrap();
        assert_eq!(stdout(&output), concat!("vipd ", env!("CARGO_PKG_VERSION"), "\n"), "{flags:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = vipd(&["completions", shell]).output().unwrap();
        assert!(output.status.success() && stdout(&output).contains("manifests"), "{shell}");
    }
    let output = vipd(&["version"]).output().unwrap();
    assert_eq!(stdout(&output), concat!("vipd ", env!("CARGO_PKG_VERSION"), "\n"));
}
