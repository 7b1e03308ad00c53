//! A changed file of `--config` takes effect while the daemon runs, with no connection lost; one with a
//! mistake in it changes nothing.

use super::health::ask_at;
use super::support::manifests::svc;
use super::support::nft::listing;
use super::support::plan::{CLUSTER_CIDRS, Ext, L1, L2, L3, NODE_PORT, Node, R1, SENTINEL, V4, V6};
use super::support::runner::{Case, case};
use super::support::vipd::{Flag, LEFT_OUT};
use super::support::world::World;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

const DIRECTORY: &str = "/run/config";
const FILE: &str = "/run/config/config.conf";

/// What the harness says by flags is said by the file here.
const FLAGS: [Flag; 3] =
    [("--config", FILE), ("--cluster-cidr", LEFT_OUT), ("--detect-local-mode", LEFT_OUT)];

fn text(more: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
         clusterCIDR: {CLUSTER_CIDRS}\n{more}\n"
    )
}

/// By another file that takes its name.
fn rename(more: &str) {
    let staged = format!("{FILE}.new");
    fs::write(&staged, text(more)).expect("an own /run");
    fs::rename(&staged, FILE).expect("an own /run");
}

fn write(more: &str) {
    fs::write(FILE, text(more)).expect("an own /run");
}

/// As a kubelet does it for a mounted ConfigMap: `config.conf` leads through `..data`, which is swapped.
fn swap(version: &str, more: &str) {
    let at = |name: &str| Path::new(DIRECTORY).join(name);
    let own = format!("..{version}");
    fs::create_dir(at(&own)).expect("an own /run");
    fs::write(at(&own).join("config.conf"), text(more)).expect("an own /run");
    symlink(&own, at("..data_tmp")).expect("an own /run");
    fs::rename(at("..data_tmp"), at("..data")).expect("an own /run");
    if !Path::new(FILE).exists() {
        symlink("..data/config.conf", FILE).expect("an own /run");
    }
}

fn start(w: &World, make: impl FnOnce()) {
    fs::create_dir_all(DIRECTORY).expect("an own /run");
    make();
    w.start(&FLAGS);
}

fn told(w: &World, words: &str) -> usize {
    w.log().matches(words).count()
}

/// Changes the file, and returns when that is in the kernel.
#[track_caller]
fn change(w: &World, how: impl FnOnce()) {
    const WORDS: &str = "the changed file of --config is in effect";
    let before = told(w, WORDS);
    how();
    w.within(SOON, || told(w, WORDS) > before);
    w.settle();
}

/// What the table holds, but for the harness' own service, which changes each time.
fn steady(w: &World) -> Vec<String> {
    let own: Vec<String> = [V4, V6]
        .into_iter()
        .flat_map(|f| [f.cluster_ip(SENTINEL), f.address(L2)])
        .map(|ip| ip.to_string())
        .collect();
    let lines = listing(w.netns(Node)).into_iter();
    lines.filter(|line| !own.iter().any(|ip| line.contains(ip))).collect()
}

/// Whether a node port answers at the node's own loopback address.
fn at_home(w: &World) -> bool {
    let loopback = w.family.loopback();
    let tries = w.tcp(Node, loopback, NODE_PORT).from(loopback).times(3).untraced();
    tries.patience(Duration::from_millis(700)).replies().failures() == 0
}

fn answer(w: &World, at: &str, path: &str) -> Option<u16> {
    let at = at.parse().expect("an address and a port");
    let words = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    ask_at(w, Node, (at, &words)).map(|answer| answer.status)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("masqueradeAll and nodePortAddresses change while it runs, on the wire", |w| {
            start(w, || write(""));
            w.serve(svc().node_port(NODE_PORT).on([L1, R1]));
            let pid = w.pid();
            let load = w.load(L3, w.cip(), 80, 100);
            w.tcp(L2, w.cip(), 80).times(40).spread([L1, R1]).source_kept();
            w.tcp(Ext, w.address(Node), NODE_PORT).times(5).reached().masqueraded();
            change(w, || write("nftables: {masqueradeAll: true}"));
            w.tcp(L2, w.cip(), 80).times(40).spread([L1, R1]).masqueraded();
            w.tcp(Ext, w.address(Node), NODE_PORT).times(5).reached();
            change(w, || {
                rename("nodePortAddresses: [192.0.2.0/24, '2001:db8:ffff::/48']");
            });
            w.tcp(L2, w.cip(), 80).times(40).spread([L1, R1]).source_kept();
            // The node itself answers that nobody listens there.
            w.tcp(Ext, w.address(Node), NODE_PORT).times(5).untraced().refused();
            change(w, || rename("nodePortAddresses: [all]"));
            w.tcp(Ext, w.address(Node), NODE_PORT).times(5).reached().masqueraded();
            w.tcp(Ext, w.family.node_second(), NODE_PORT).times(5).reached();
            let replies = load.stop();
            assert!(replies.outcomes.len() > 10, "{replies}");
            replies.reached();
            assert_eq!(w.pid(), pid);
        })
        .without_vipd(),
        case("detection, external IPs and node ports on loopback change while it runs", |w| {
            let external = w.family.external_ip();
            start(w, || write(""));
            w.serve(svc().node_port(NODE_PORT).external_ips([external]).on([L1]));
            w.tcp(Ext, w.cip(), 80).times(5).only([L1]).masqueraded();
            w.tcp(Ext, external, 80).times(5).only([L1]);
            w.within(SOON, || at_home(w));
            change(w, || write("featureGates: {AllowServiceExternalIPs: false}"));
            let silent = || w.tcp(Ext, external, 80).times(2).patience(Duration::from_millis(300));
            assert!(silent().untraced().replies().answers().is_empty());
            change(w, || {
                write(
                    "iptables: {localhostNodePorts: false}\ndetectLocalMode: InterfaceNamePrefix\n\
                       detectLocal: {interfaceNamePrefix: ext}",
                );
            });
            // By that detector the outsider is a pod, and the pods are not.
            w.tcp(Ext, w.cip(), 80).times(5).only([L1]).source_kept();
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).masqueraded();
            w.tcp(Ext, external, 80).times(5).only([L1]);
            w.within(SOON, || !at_home(w));
            change(w, || write(""));
            w.tcp(Ext, w.cip(), 80).times(5).only([L1]).masqueraded();
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).source_kept();
            w.within(SOON, || at_home(w));
        })
        .without_vipd(),
        case("a file with a mistake is told and changes nothing; the next good one counts", |w| {
            start(w, || write("nftables: {masqueradeAll: true}"));
            w.serve(svc().on([L1]));
            let before = steady(w);
            write("oomScoreAdj: 4000");
            w.within(SOON, || told(w, "the former configuration stays") == 1);
            assert_eq!(told(w, "oomScoreAdj"), 1, "{}", w.log());
            fs::write(FILE, "mode: [").expect("an own /run");
            w.within(SOON, || told(w, "the former configuration stays") == 2);
            fs::remove_file(FILE).expect("it was written");
            w.within(SOON, || told(w, "cannot be read") == 1);
            rename("mode: ebpf\nclusterCIDR: 10.0.0.0/8");
            w.within(SOON, || told(w, "that dataplane does not exist") == 1);
            w.settle();
            let after = steady(w);
            assert!(before.len() > 3, "{before:#?}");
            assert_eq!(after, before);
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).masqueraded();
            change(w, || rename(""));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).source_kept();
        })
        .once()
        .without_vipd(),
        case("a ConfigMap's directory that is swapped behind its symlink is noticed", |w| {
            start(w, || swap("2026_1", ""));
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).source_kept();
            change(w, || swap("2026_2", "nftables: {masqueradeAll: true}"));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).masqueraded();
            fs::remove_dir_all(format!("{DIRECTORY}/..2026_1")).expect("it was made");
            change(w, || swap("2026_3", "nftables: {masqueradeAll: false}"));
            w.tcp(L2, w.cip(), 80).times(5).only([L1]).source_kept();
            // The same text once more is nothing new.
            let before = w.log();
            swap("2026_4", "nftables: {masqueradeAll: false}");
            w.settle();
            assert_eq!(w.log().replace(&before, ""), "");
        })
        .once()
        .without_vipd(),
        case("sockets follow, sysctls are set, and what needs a restart is named", |w| {
            start(w, || write("healthzBindAddress: 0.0.0.0:10256"));
            w.serve(svc().on([L1]));
            assert_eq!(answer(w, "192.168.0.2:10256", "/healthz"), Some(200));
            assert_eq!(told(w, "DEBUG"), 0, "{}", w.log());
            change(w, || {
                write(
                    "healthzBindAddress: 127.0.0.1:10256\nmetricsBindAddress: 127.0.0.1:9999\n\
                     conntrack: {udpTimeout: 47s}\nlogging: {verbosity: 6, format: json}\noomScoreAdj: 77",
                );
            });
            w.within(SOON, || answer(w, "127.0.0.1:10256", "/healthz") == Some(200));
            assert_eq!(answer(w, "192.168.0.2:10256", "/healthz"), None);
            w.within(SOON, || answer(w, "127.0.0.1:9999", "/proxyMode") == Some(200));
            let held = "cat /proc/sys/net/netfilter/nf_conntrack_udp_timeout";
            assert_eq!(w.sh(Node, held).trim(), "47");
            let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", w.pid()));
            assert_eq!(score.expect("it runs").trim(), "77");
            assert!(told(w, "DEBUG") > 0, "the level is another one: {}", w.log());
            assert_eq!(told(w, "logging.format in the file of --config has changed"), 1);
            assert_eq!(told(w, "needs a restart"), 1, "{}", w.log());
            // Manifests are the source here: a kubeconfig would be a second one.
            write("clientConnection: {kubeconfig: /k}");
            w.within(SOON, || told(w, "the former configuration stays") == 1);
            change(w, || rename("healthzBindAddress: 127.0.0.1:10256"));
            w.within(SOON, || answer(w, "127.0.0.1:9999", "/proxyMode").is_none());
            assert_eq!(answer(w, "127.0.0.1:10256", "/healthz"), Some(200));
        })
        .once()
        .without_vipd(),
    ]
}
