//! What kube-proxy left: told at the start, removed by `--takeover` once vipd serves, and nothing
//! else with it.

use super::support::manifests::svc;
use super::support::nft::tables;
use super::support::plan::{Family, L1, L2, NODE_A, Node, R1, V4, V6, Who};
use super::support::runner::{Case, case, skip};
use super::support::vipd::Carrier;
use super::support::world::World;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const TAKEOVER: [(&str, &str); 1] = [("--takeover", "")];

const FOREIGN: [&str; 3] = ["inet kube-proxy", "ip foreign", "bridge kube-proxy"];

fn ip(family: Family) -> &'static str {
    if family == V4 { "ip" } else { "ip6" }
}

/// The title of kube-proxy's table.
fn own(family: Family) -> String {
    format!("{} kube-proxy", ip(family))
}

/// A table as kube-proxy's mode nftables makes it, for the case's service on L1 and R1.
fn kube_proxy_table(w: &World) -> String {
    let (ip, address) = match w.family {
        V4 => ("ip", "ipv4_addr"),
        V6 => ("ip6", "ipv6_addr"),
    };
    let pods = w.family.pod_cidr(NODE_A);
    let (cluster, a, b) = (w.cip(), w.address(L1), w.address(R1));
    let (to_a, to_b) = match w.family {
        V4 => (format!("{a}:8080"), format!("{b}:8080")),
        V6 => (format!("[{a}]:8080"), format!("[{b}]:8080")),
    };
    let unserved = w.family.cluster_ip(77);
    format!(
        "table {ip} kube-proxy {{
            comment \"rules for kube-proxy\"
            set cluster-ips {{ type {address}; elements = {{ {cluster}, {unserved} }}; }}
            map no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict;
                elements = {{ {unserved} . tcp . 80 comment \"ns/none\" : goto reject-chain }}; }}
            map service-ips {{ type {address} . inet_proto . inet_service : verdict;
                elements = {{ {cluster} . tcp . 80 comment \"ns/s\" : goto service-AAAA-ns/s/tcp/ }}; }}
            map service-nodeports {{ type inet_proto . inet_service : verdict; }}
            chain filter-prerouting {{ type filter hook prerouting priority dstnat - 10;
                ct state new jump firewall-check; }}
            chain filter-forward {{ type filter hook forward priority -110;
                ct state new jump service-endpoints-check
                ct state new jump cluster-ips-check; }}
            chain filter-output {{ type filter hook output priority -110;
                ct state new jump service-endpoints-check
                ct state new jump firewall-check; }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain nat-output {{ type nat hook output priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
            chain firewall-check {{ }}
            chain reject-chain {{ reject; }}
            chain service-endpoints-check {{
                {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
            chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            chain masquerading {{ meta mark & 0x4000 == 0 return
                meta mark set meta mark ^ 0x4000
                masquerade fully-random; }}
            chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; }}
            chain service-AAAA-ns/s/tcp/ {{
                {ip} daddr {cluster} tcp dport 80 {ip} saddr != {pods} jump mark-for-masquerade
                numgen random mod 2 vmap {{ 0 : goto endpoint-A-ns/s/tcp/, 1 : goto endpoint-B-ns/s/tcp/ }}; }}
            chain endpoint-A-ns/s/tcp/ {{
                {ip} saddr {a} jump mark-for-masquerade
                meta l4proto tcp dnat to {to_a}; }}
            chain endpoint-B-ns/s/tcp/ {{
                {ip} saddr {b} jump mark-for-masquerade
                meta l4proto tcp dnat to {to_b}; }}
        }}"
    )
}

/// Tables that are nobody's business, though one speaks of kube-proxy.
fn foreign_tables(w: &World) -> String {
    w.netns(Node).nft(
        "table inet kube-proxy { chain services { counter; }; }
         table ip foreign { map m { type inet_service : verdict; elements = { 1 : goto KUBE-SERVICES }; };
            chain KUBE-SERVICES { accept; }
            chain f { type filter hook forward priority 5; tcp dport 1 jump KUBE-SERVICES; }
         }
         table bridge kube-proxy { chain c { }; }",
    );
    listings(w, &FOREIGN)
}

/// With handles: what was made anew has others.
fn listings(w: &World, tables: &[&str]) -> String {
    tables.iter().map(|table| w.sh(Node, &format!("nft -a -s list table {table}"))).collect()
}

fn has(w: &World, table: &str) -> bool {
    tables(w.netns(Node)).contains(&format!("table {table}"))
}

#[track_caller]
fn says(w: &World, parts: &[&str]) {
    let log = w.log();
    let said = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(said, "no line has {parts:?}:\n{log}");
}

#[track_caller]
fn wait_for(w: &World, text: &str) {
    w.within(SOON, || w.log().contains(text));
}

// ---- iptables, by one of its two programs

fn needs(program: &str) {
    let look = format!("command -v {program} > /dev/null");
    let found = Command::new("sh").args(["-c", &look]).status();
    if !found.is_ok_and(|status| status.success()) {
        skip(&format!("{program} is not installed (Debian: package iptables)"));
    }
}

/// `iptables-nft`, `ip6tables-legacy`, …
fn program(family: Family, kind: &str) -> String {
    format!("{}tables-{kind}", if family == V4 { "ip" } else { "ip6" })
}

#[track_caller]
fn restore(w: &World, kind: &str, text: &str) {
    let rules = "/run/rules";
    std::fs::write(rules, text).expect("an own /run");
    w.sh(Node, &format!("{}-restore --noflush < {rules}", program(w.family, kind)));
}

/// Without times and counters.
fn saved(w: &World, kind: &str) -> String {
    let said = w.sh(Node, &format!("{}-save", program(w.family, kind)));
    let lines = said.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n").collect()
}

/// Rules of an admin, of kubelet and of a network policy agent, in the tables that kube-proxy uses.
fn others_rules(w: &World) -> String {
    let pod = w.address(L2);
    format!(
        "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\n\
         -A PREROUTING -s {pod} -m comment --comment \"mine -j KUBE-SERVICES\" -j MARK --set-mark 0x1\nCOMMIT\n\
         *nat\n:KUBE-KUBELET-CANARY - [0:0]\n:MINE - [0:0]\n\
         -A PREROUTING -p tcp -m tcp --dport 65000 -j MINE\n-A OUTPUT -j MINE\n\
         -A POSTROUTING -p tcp -m tcp --dport 65000 -j MASQUERADE\n-A MINE -p tcp -j RETURN\nCOMMIT\n\
         *filter\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n\
         -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n-A FORWARD -j KUBE-ROUTER-FORWARD\n\
         -A FORWARD -p tcp -m tcp --dport 65001 -j DROP\n\
         -A KUBE-ROUTER-FORWARD -p tcp -m tcp --dport 65002 -j DROP\nCOMMIT\n"
    )
}

/// As kube-proxy's mode iptables makes them for the case's service on L1 and R1, and for one
/// without endpoints.
fn kube_proxys_rules(w: &World) -> String {
    let pods = w.family.pod_cidr(NODE_A);
    let (cluster, a, b, unserved) =
        (w.cip(), w.address(L1), w.address(R1), w.family.cluster_ip(77));
    let (to_a, to_b) = match w.family {
        V4 => (format!("{a}:8080"), format!("{b}:8080")),
        V6 => (format!("[{a}]:8080"), format!("[{b}]:8080")),
    };
    let portals = "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES";
    format!(
        "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         -I FORWARD -m conntrack --ctstate NEW {portals}\n\
         -I OUTPUT -m conntrack --ctstate NEW {portals}\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -I INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-SERVICES -d {unserved} -p tcp -m tcp --dport 80 -j REJECT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n\
         :KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]\n\
         :KUBE-PROXY-CANARY - [0:0]\n\
         -I PREROUTING {portals}\n-I OUTPUT {portals}\n\
         -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -d {cluster} -p tcp -m comment --comment \"ns/s cluster IP\" -m tcp --dport 80 -j KUBE-SVC-AAAAAAAAAAAAAAAA\n\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-SVC-AAAAAAAAAAAAAAAA ! -s {pods} -d {cluster} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
         -A KUBE-SVC-AAAAAAAAAAAAAAAA -m statistic --mode random --probability 0.5 -j KUBE-SEP-AAAAAAAAAAAAAAAA\n\
         -A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-BBBBBBBBBBBBBBBB\n\
         -A KUBE-SEP-AAAAAAAAAAAAAAAA -s {a} -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination {to_a}\n\
         -A KUBE-SEP-BBBBBBBBBBBBBBBB -s {b} -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m tcp -j DNAT --to-destination {to_b}\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n"
    )
}

/// A load that kube-proxy's rules serve first, then vipd beside them, then vipd alone.
fn taken_over_under_load(w: &World, gone: impl Fn() -> bool) {
    w.write(svc().on([L1, R1]));
    let loads = [L2, Node].map(|who| w.load(who, w.cip(), 80, 100));
    w.sleep(400);
    assert!(!gone(), "there is nothing to take over");
    w.start(&TAKEOVER);
    w.within(SOON, gone);
    w.sleep(400);
    for load in loads {
        let replies = load.stop();
        assert!(replies.outcomes.len() > 60, "{replies}");
        replies.reached();
    }
    wait_for(w, "removed what kube-proxy left");
    w.tcp(L2, w.cip(), 80).times(200).spread([L1, R1]).source_kept();
    w.tcp(Node, w.cip(), 80).times(50).spread([L1, R1]).masqueraded();
}

/// What iptables-nft keeps in nf_tables, for each table that the cases use.
fn nft_listings(w: &World) -> String {
    let ip = ip(w.family);
    let titles = ["nat", "filter", "mangle"].map(|table| format!("{ip} {table}"));
    listings(w, &titles.each_ref().map(String::as_str))
}

/// A process called kube-proxy that does nothing, until the case ends.
fn sleeper(w: &World, who: Who) -> u32 {
    let program = "/run/kube-proxy";
    if !Path::new(program).exists() {
        w.sh(who, &format!("cp \"$(command -v sleep)\" {program}"));
    }
    let said = w.sh(who, &format!("{program} 100 > /dev/null 2>&1 & echo $!"));
    said.trim().parse().expect("a pid")
}

fn told_and_left(w: &World) {
    const OWN: [&str; 2] = ["ip kube-proxy", "ip6 kube-proxy"];
    let foreign = foreign_tables(w);
    for family in [V4, V6] {
        w.netns(Node).nft(&kube_proxy_table(&w.over(family)));
    }
    let before = listings(w, &OWN);
    let chains = before.lines().filter(|line| line.trim().starts_with("chain ")).count();
    w.start(&[]);
    wait_for(w, "kube-proxy's nf_tables tables");
    let counted = format!("{chains} chains and ");
    says(w, &["WARN", "ip kube-proxy and ip6 kube-proxy", &counted, " µs longer", "--takeover"]);
    w.serve(svc().on([L1, R1]));
    assert_eq!(listings(w, &OWN), before);
    assert_eq!(listings(w, &FOREIGN), foreign);
    assert!(!w.log().contains("iptables"), "{}", w.log());
}

fn own_table(w: &World) {
    let foreign = foreign_tables(w);
    w.netns(Node).nft(&kube_proxy_table(w));
    taken_over_under_load(w, || !has(w, &own(w.family)));
    assert_eq!(listings(w, &FOREIGN), foreign);
    says(w, &["INFO", "removed what kube-proxy left: 1 tables"]);
}

fn chains_of_iptables_nft(w: &World) {
    needs("iptables-nft");
    restore(w, "nft", &others_rules(w));
    let (before, text) = (nft_listings(w), saved(w, "nft"));
    restore(w, "nft", &kube_proxys_rules(w));
    assert_ne!(nft_listings(w), before);
    taken_over_under_load(w, || !saved(w, "nft").contains("KUBE-PROXY-CANARY"));
    assert_eq!(nft_listings(w), before);
    assert_eq!(saved(w, "nft"), text);
    says(w, &["WARN", "kube-proxy's iptables chains", "14 chains and 22 rules"]);
    says(w, &["INFO", "removed what kube-proxy left: 14 chains, 22 rules"]);
}

fn chains_of_iptables_legacy(w: &World) {
    needs("iptables-legacy");
    restore(w, "legacy", &others_rules(w));
    let before = saved(w, "legacy");
    restore(w, "legacy", &kube_proxys_rules(w));
    assert_ne!(saved(w, "legacy"), before);
    taken_over_under_load(w, || !saved(w, "legacy").contains("KUBE-PROXY-CANARY"));
    assert_eq!(saved(w, "legacy"), before);
    says(w, &["WARN", "kube-proxy's iptables-legacy chains", "14 chains and 22 rules"]);
    says(w, &["INFO", "removed what kube-proxy left: 14 chains, 22 rules"]);
}

/// A host port's rule leads to one chain, and to another a map, which no listing of rules shows.
fn chains_in_use(w: &World) {
    needs("iptables-nft");
    restore(w, "nft", &others_rules(w));
    restore(w, "nft", &kube_proxys_rules(w));
    let setmark = "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ";
    restore(w, "nft", &format!("*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n{setmark}\nCOMMIT\n"));
    let nat = format!("{} nat", ip(w.family));
    let map = "meta l4proto vmap { sctp : jump KUBE-SEP-AAAAAAAAAAAAAAAA }";
    w.netns(Node).nft(&format!("add rule {nat} MINE {map}"));
    w.netns(Node).nft(&kube_proxy_table(w));
    w.write(svc().on([L1, R1]));
    w.start(&TAKEOVER);
    wait_for(w, " stay: ");
    let left = listings(w, &[&nat]);
    let chains = left.lines().filter_map(|line| line.trim().strip_prefix("chain KUBE-"));
    let mut chains: Vec<_> = chains.filter_map(|rest| rest.split(' ').next()).collect();
    chains.sort_unstable();
    let kept = ["KUBELET-CANARY", "MARK-MASQ", "POSTROUTING", "SEP-AAAAAAAAAAAAAAAA"];
    assert_eq!(chains, kept, "{left}");
    for rule in ["jump KUBE-POSTROUTING", "masquerade", "jump KUBE-MARK-MASQ", map] {
        assert!(left.contains(rule), "{rule} is missing in {left}");
    }
    assert!(!nft_listings(w).contains("KUBE-FORWARD"));
    says(w, &["WARN", "KUBE-MARK-MASQ (a rule of chain CNI-HOSTPORT-SETMARK jumps to it)"]);
    says(w, &["WARN", "KUBE-SEP-AAAAAAAAAAAAAAAA (something else than a rule"]);
    says(w, &["INFO", "removed what kube-proxy left: 1 tables, 11 chains, "]);
    assert!(!has(w, &own(w.family)));
    w.tcp(L2, w.cip(), 80).times(100).spread([L1, R1]).source_kept();
}

/// A table of kube-proxy's name that goes when its owner does, and that only its owner may change.
fn a_table_with_an_owner(w: &World) {
    let table = own(w.family);
    let other = w.over(if w.family == V4 { V6 } else { V4 });
    let held = format!("echo 'add table {table} {{ flags owner; }}'; exec sleep 100");
    w.sh(Node, &format!("({held}) 2> /dev/null | nft -i > /dev/null 2>&1 &"));
    w.within(SOON, || has(w, &table));
    w.netns(Node).nft(&kube_proxy_table(&other));
    w.write(svc().on([L1]));
    w.start(&TAKEOVER);
    wait_for(w, "removed what kube-proxy left");
    assert!(has(w, &table) && !has(w, &own(other.family)));
    says(w, &["WARN", "refuses to change table", &table]);
    w.tcp(L2, w.cip(), 80).times(10).only([L1]);
}

/// More than one transaction where the socket's buffer is an unprivileged one's.
fn thousands_of_chains(w: &World) {
    const SERVICES: usize = 4000;
    w.netns(Node).nft(
        "table ip nat {
            chain KUBE-SERVICES { }
            chain PREROUTING { type nat hook prerouting priority dstnat
                jump KUBE-SERVICES
                tcp dport 65000 accept
            }
        }",
    );
    for start in (0..SERVICES).step_by(250) {
        let lines = (start..start + 250).map(|n| {
            format!(
                "add chain ip nat KUBE-SVC-{n:016}; add chain ip nat KUBE-SEP-{n:016}
                 add rule ip nat KUBE-SVC-{n:016} jump KUBE-SEP-{n:016}
                 add rule ip nat KUBE-SERVICES tcp dport {} jump KUBE-SVC-{n:016}\n",
                n + 1
            )
        });
        w.netns(Node).nft(&lines.collect::<String>());
    }
    w.write(svc().on([L1]));
    w.start(&TAKEOVER);
    let (chains, rules) = (2 * SERVICES + 1, 2 * SERVICES + 1);
    wait_for(w, &format!("removed what kube-proxy left: {chains} chains, {rules} rules"));
    let left = listings(w, &["ip nat"]);
    assert!(!left.contains("KUBE") && left.contains("tcp dport 65000 accept"), "{left}");
    w.tcp(L2, w.cip(), 80).times(10).only([L1]);
}

/// What is left is the way back as well: with the wrong manifests, vipd must not cut it off.
fn nothing_to_serve(w: &World) {
    w.netns(Node).nft(&kube_proxy_table(w));
    w.tcp(L2, w.cip(), 80).times(20).reached();
    w.launch(&TAKEOVER);
    wait_for(w, "has no service to serve");
    w.sleep(500);
    assert!(has(w, &own(w.family)));
    w.terminate();
    assert_eq!(w.vipd("cleanup").code, 0);
    w.tcp(L2, w.cip(), 80).times(20).reached();
    w.launch(&TAKEOVER);
    w.serve(svc().on([L1]));
    w.within(SOON, || !has(w, &own(w.family)));
    w.tcp(L2, w.cip(), 80).times(20).only([L1]);
}

/// vipd's rules serve until kube-proxy's are there; then `vipd cleanup`.
fn the_way_back(w: &World) {
    w.write(svc().on([L1, R1]));
    w.start(&[]);
    let load = w.load(L2, w.cip(), 80, 100);
    w.terminate();
    w.netns(Node).nft(&kube_proxy_table(w));
    w.sleep(300);
    assert_eq!(w.vipd("cleanup").code, 0);
    w.sleep(300);
    let replies = load.stop();
    assert!(replies.outcomes.len() > 40, "{replies}");
    replies.reached();
    assert_eq!(tables(w.netns(Node)), [format!("table {}", own(w.family))]);
    w.tcp(L2, w.cip(), 80).times(100).spread([L1, R1]);
}

fn a_running_kube_proxy(w: &World) {
    let (here, elsewhere) = (sleeper(w, Node), sleeper(w, L1));
    w.start(&TAKEOVER);
    wait_for(w, "kube-proxy is running");
    says(w, &["WARN", &format!("in this network namespace (pid {here})")]);
    for pid in [here, elsewhere] {
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "vipd ends no process");
        w.sh(Node, &format!("kill {pid}"));
    }
}

fn kube_ipvs0(w: &World) {
    if w.netns(Node).try_sh("ip link add kube-ipvs0 type dummy").code != 0 {
        skip("this kernel has no dummy interfaces");
    }
    w.sh(Node, &format!("ip addr add {}/32 dev kube-ipvs0", w.cip()));
    w.write(svc().on([L1]));
    w.start(&TAKEOVER);
    wait_for(w, "removed what kube-proxy left: 1 interfaces");
    says(w, &["WARN", "kube-ipvs0 is here", "1 service addresses"]);
    assert_ne!(w.netns(Node).try_sh("ip link show kube-ipvs0").code, 0);
    w.tcp(L2, w.cip(), 80).times(10).only([L1]);
}

fn another_kube_ipvs0(w: &World) {
    w.sh(Node, "ip link add kube-ipvs0 type bridge");
    w.sh(Node, "ip addr add 198.51.100.1/32 dev kube-ipvs0");
    w.write(svc().on([L1]));
    w.start(&TAKEOVER);
    wait_for(w, "it is no dummy interface");
    says(w, &["WARN", "kube-ipvs0 is here", "1 service addresses"]);
    assert!(w.sh(Node, "ip -4 addr show kube-ipvs0").contains("198.51.100.1/32"));
}

fn a_clean_node(w: &World) {
    foreign_tables(w);
    let before = w.sh(Node, "nft -a -s list ruleset");
    w.start(&TAKEOVER);
    w.sleep(300);
    assert!(!w.log_of_node().contains("kube-proxy"), "{}", w.log());
    w.terminate();
    w.netns(Node).nft("delete table inet vipd");
    if w.carrier() == Carrier::Relay {
        w.netns(Node).nft("delete table arp vipd");
    }
    assert_eq!(w.sh(Node, "nft -a -s list ruleset"), before);
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("62 kube-proxy's tables are told with their cost, and stay", told_and_left).once(),
        case("62 --takeover removes kube-proxy's table, and no connection fails", own_table),
        case(
            "62 --takeover removes kube-proxy's chains of iptables-nft, nobody else's",
            chains_of_iptables_nft,
        ),
        case(
            "62 --takeover removes kube-proxy's chains of iptables-legacy, nobody else's",
            chains_of_iptables_legacy,
        ),
        case("a chain that others use stays, with what it needs; the rest goes", chains_in_use),
        case("a table that a running program owns stays; the rest goes", a_table_with_an_owner),
        case("thousands of chains go", thousands_of_chains).once(),
        case("without a service to serve, what kube-proxy left stays", nothing_to_serve),
        case("back to kube-proxy, and no connection fails", the_way_back),
        // Processes are no namespace's: other cases would tell of it.
        case("a kube-proxy that runs here is named and left alone", a_running_kube_proxy)
            .once()
            .alone(),
        case("kube-ipvs0 goes with its addresses", kube_ipvs0).once(),
        case("an interface kube-ipvs0 of another kind stays", another_kube_ipvs0).once(),
        case("on a clean node --takeover says and changes nothing", a_clean_node).once(),
    ];
    cases.into_iter().map(Case::without_vipd).collect()
}
