//! Others edit vipd's table: it notices and repairs, within a second, what they changed.

use super::support::manifests::{slice, svc};
use super::support::nft::{TABLE, Watch, filled_sets, listing, objects, tables};
use super::support::plan::{Ext, L1, L2, L3, NODE_PORT, Node, NodeB, R1, R2, V4};
use super::support::runner::{Case, case};
use super::support::servers::Udp;
use super::support::world::World;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);

/// Services of every kind: a plain one, a sticky one, one without endpoints, and one that is reached
/// by all ways under policy Local by those who may.
fn serve(w: &World) {
    let exposed = svc().named("exposed", 44).node_port(NODE_PORT).load_balancer([w.vip()]);
    let exposed = exposed.external_ips([w.family.external_ip()]).external_local().sticky(600);
    w.write(exposed.source_ranges([w.family.outside_half()]).on([L1, R1]));
    w.write(svc().on([L1, R1]));
    w.write(svc().named("sticky", 42).sticky(600).on([L1, L3, R2]));
    w.serve(svc().named("empty", 43));
    w.tcp(L2, w.family.cluster_ip(42), 80).one_server();
}

/// Runs an edit; the table must be as before within a second.
#[track_caller]
fn repaired(w: &World, edit: &str) {
    let before = listing(w.netns(Node));
    w.netns(Node).nft(edit);
    let patience = std::time::Instant::now() + SOON;
    loop {
        let said = w.netns(Node).try_sh(&format!("nft list table {TABLE} > /dev/null"));
        let now = if said.code == 0 { listing(w.netns(Node)) } else { Vec::new() };
        if now == before {
            return;
        }
        if std::time::Instant::now() > patience {
            let missing: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
            let extra: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
            panic!(
                "`{edit}` is not repaired within {SOON:?}; missing {missing:#?}, extra {extra:#?}"
            );
        }
        w.sleep(20);
    }
}

fn works(w: &World) {
    w.tcp(L2, w.cip(), 80).times(60).spread([L1, R1]).source_kept();
    w.tcp(L2, w.family.cluster_ip(42), 80).times(3).one_server();
    w.tcp(L2, w.family.cluster_ip(43), 80).times(2).refused();
    w.tcp(Ext, w.vip(), 80).times(20).only([L1]).source_kept();
    w.tcp(Ext, w.vip(), 80).from(w.family.outside_second()).times(2).dropped();
    w.tcp(Ext, w.address(Node), NODE_PORT).times(20).only([L1]).source_kept();
    w.tcp(L2, w.address(Node), NODE_PORT).times(3).one_server();
}

pub fn cases() -> Vec<Case> {
    vec![
        case("55 a flushed, deleted or dormant table is back within a second", |w| {
            serve(w);
            for edit in [
                "flush ruleset",
                "delete table inet vipd",
                "flush table inet vipd",
                "add table inet vipd { flags dormant; }",
            ] {
                w.netns(Node).nft(edit);
                let reached = || {
                    let tries =
                        w.tcp(L2, w.cip(), 80).times(3).patience(Duration::from_millis(100));
                    tries.untraced().replies().failures() == 0
                };
                w.within(SOON, reached);
                w.settle();
                works(w);
            }
        }),
        case("what began while there was no table is served after the repair", |w| {
            w.write(svc().on([L1]));
            w.serve(svc().named("log", 42).udp().on([L1]));
            // Nobody answers what leaves the node untranslated. Some program or other keeps connection
            // tracking on.
            let range = if w.family == V4 {
                "ip daddr 10.254.0.0/16"
            } else {
                "ip6 daddr fd00:10:254::/112"
            };
            w.netns(NodeB).nft(&format!(
                "table inet quiet {{ chain c {{ type filter hook prerouting priority -400; {range} drop; }}; }}"
            ));
            let other = "table inet other { chain c { type filter hook forward priority 10; ct state established accept; }; }";
            w.netns(Node).nft(other);
            w.sh(Node, &format!("kill -STOP {}", w.pid()));
            w.netns(Node).nft("delete table inet vipd");
            let since = Instant::now();
            let flow = w.talking(L2, Udp, w.family.cluster_ip(42), 80);
            let to = SocketAddr::new(w.cip(), 80);
            let patience = Duration::from_secs(20);
            let client =
                w.netns(L2).spawn(move || TcpStream::connect_timeout(&to, patience).map(|_| ()));
            w.sleep(300);
            let entries = || w.conntrack(w.address(L2), w.cip());
            assert!(entries().iter().any(|entry| entry.contains("SYN_SENT")), "{:?}", entries());
            assert!(flow.servers(since).is_empty(), "there are no rules");
            w.sh(Node, &format!("kill -CONT {}", w.pid()));
            w.answered_by(&flow, L1);
            let connected = client.join().expect("no panic");
            assert!(connected.is_ok(), "{connected:?}: {:?}", entries());
        })
.kernel_only("who is stopped serves nobody that it relays"),
        case("a flushed set is filled again, a deleted element is put back", |w| {
            serve(w);
            let filled = filled_sets(w.netns(Node));
            let family = if w.family == V4 { '4' } else { '6' };
            for kind in ["services", "nodes", "nodeports", "guarded", "allowed", "addresses"] {
                let name = format!("{kind}{family}");
                assert!(filled.iter().any(|set| set.name == name), "{name} has no element");
            }
            for name in ["locals", "classes", "inners", "exits"] {
                assert!(filled.iter().any(|set| set.name == name), "{name} has no element");
            }
            for set in filled {
                if set.elements.iter().any(|element| element.contains("expires")) {
                    continue;
                }
                repaired(w, &format!("flush {} {TABLE} {}", set.kind, set.name));
                let key = set.elements[0].split(" : ").next().unwrap_or_default();
                repaired(w, &format!("delete element {TABLE} {} {{ {key} }}", set.name));
            }
            works(w);
        }),
        case("a foreign element in vipd's frontends goes", |w| {
            serve(w);
            let ours = w.cip().to_string();
            let sets = filled_sets(w.netns(Node));
            let with_frontend = sets.iter().find_map(|set| {
                let element = set.elements.iter().find(|element| element.starts_with(&ours))?;
                Some((set.name.clone(), element.clone()))
            });
            let (set, element) = with_frontend.expect("a frontend's key begins with its address");
            let foreign = element.replacen(&ours, &w.family.unallocated().to_string(), 1);
            repaired(w, &format!("add element {TABLE} {set} {{ {foreign} }}"));
            w.tcp(L2, w.family.unallocated(), 80).times(2).dropped();
            works(w);
        }),
        case("deleted and added rules and flushed chains are repaired", |w| {
            serve(w);
            let rules = objects(w.netns(Node), "rule");
            assert!(rules.len() > 5, "{} rules", rules.len());
            for index in 0..rules.len() {
                // Handles change with each repair.
                let now = objects(w.netns(Node), "rule");
                let Some(rule) = now.get(index) else { continue };
                let chain = rule["chain"].as_str().unwrap_or_default();
                repaired(w, &format!("delete rule {TABLE} {chain} handle {}", rule["handle"]));
            }
            for chain in objects(w.netns(Node), "chain") {
                let name = chain["name"].as_str().unwrap_or_default();
                repaired(w, &format!("flush chain {TABLE} {name}"));
                repaired(w, &format!("insert rule {TABLE} {name} counter"));
            }
            works(w);
        })
.kernel_only("it takes every rule of the kernel's table in turn; the relay's table nobody else can change")
        .once(),
        case("changes of other tables cost vipd nothing, and it does not touch them", |w| {
            serve(w);
            let watch = Watch::start(w.netns(Node));
            w.netns(Node).nft("add table inet foreign; add set inet foreign s { type ipv4_addr; }; add element inet foreign s { 192.0.2.1 }");
            w.netns(Node).nft("delete table inet foreign");
            w.sleep(300);
            assert_eq!(watch.changes().commits, 2);
            w.netns(Node).nft("add table inet foreign");
            w.netns(Node).nft(&format!("delete table {TABLE}"));
            w.within(SOON, || tables(w.netns(Node)).contains(&format!("table {TABLE}")));
            assert!(tables(w.netns(Node)).contains(&"table inet foreign".to_owned()));
            w.settle();
            works(w);
        }),
        case("edits while objects change: both end up right", |w| {
            serve(w);
            for turn in 0..10 {
                w.netns(Node).nft("flush ruleset");
                w.write(if turn % 2 == 0 { slice([L1, R2]) } else { slice([L1, R1]) });
            }
            w.settle();
            w.sleep(1000);
            works(w);
        }),
    ]
}
