//! Every source, every way into a service, every policy: which endpoints, and with whose address.
//!
//! The flows and settings of upstream's `TestInternalExternalMasquerade`, as one table.

use super::support::manifests::{Svc, svc};
use super::support::plan::{Ext, L1, L2, NODE_PORT, Node, R1, Who};
use super::support::runner::{Case, case};
use super::support::vipd::LEFT_OUT;
use super::support::world::World;
use std::net::IpAddr;

/// `all`: both endpoints answer, the one here and the one elsewhere; `here`: only the one here.
/// `kept`: it sees the client's address; `masq`: the node's.
///
/// - To the cluster IP: masqueraded with --masquerade-all, else if a detector says that the client
///   is no local pod. `internalTrafficPolicy: Local` leaves the endpoint here; `externalTrafficPolicy`
///   means nothing.
/// - To the node port and to the load balancer's address under `externalTrafficPolicy: Cluster`:
///   always masqueraded; `internalTrafficPolicy` and --masquerade-all mean nothing.
/// - The same under `Local`: a local pod, if a detector can tell, and the node itself reach all
///   endpoints, the node masqueraded; everybody else reaches the one here. --masquerade-all means
///   nothing.
const FLOWS: &str = "
    policies            client  destination    detector   no detector  all        all, no detector
    cluster             pod     cluster-ip     all  kept  all  kept    all  masq  all  masq
    cluster             pod     node-port      all  masq  all  masq    all  masq  all  masq
    cluster             pod     load-balancer  all  masq  all  masq    all  masq  all  masq
    cluster             node    cluster-ip     all  masq  all  kept    all  masq  all  masq
    cluster             node    node-port      all  masq  all  masq    all  masq  all  masq
    cluster             node    load-balancer  all  masq  all  masq    all  masq  all  masq
    cluster             ext     cluster-ip     all  masq  all  kept    all  masq  all  masq
    cluster             ext     node-port      all  masq  all  masq    all  masq  all  masq
    cluster             ext     load-balancer  all  masq  all  masq    all  masq  all  masq

    external-local      pod     cluster-ip     all  kept  all  kept    all  masq  all  masq
    external-local      pod     node-port      all  kept  here kept    all  kept  here kept
    external-local      pod     load-balancer  all  kept  here kept    all  kept  here kept
    external-local      node    cluster-ip     all  masq  all  kept    all  masq  all  masq
    external-local      node    node-port      all  masq  all  masq    all  masq  all  masq
    external-local      node    load-balancer  all  masq  all  masq    all  masq  all  masq
    external-local      ext     cluster-ip     all  masq  all  kept    all  masq  all  masq
    external-local      ext     node-port      here kept  here kept    here kept  here kept
    external-local      ext     load-balancer  here kept  here kept    here kept  here kept

    internal-local      pod     cluster-ip     here kept  here kept    here masq  here masq
    internal-local      pod     node-port      all  masq  all  masq    all  masq  all  masq
    internal-local      pod     load-balancer  all  masq  all  masq    all  masq  all  masq
    internal-local      node    cluster-ip     here masq  here kept    here masq  here masq
    internal-local      node    node-port      all  masq  all  masq    all  masq  all  masq
    internal-local      node    load-balancer  all  masq  all  masq    all  masq  all  masq
    internal-local      ext     cluster-ip     here masq  here kept    here masq  here masq
    internal-local      ext     node-port      all  masq  all  masq    all  masq  all  masq
    internal-local      ext     load-balancer  all  masq  all  masq    all  masq  all  masq
";

#[derive(Clone, Copy)]
enum Setting {
    Detector,
    NoDetector,
    All,
    AllWithoutDetector,
}

struct Flow {
    policies: &'static str,
    client: Who,
    destination: &'static str,
    endpoints: &'static str,
    source: &'static str,
}

fn flows(setting: Setting) -> Vec<Flow> {
    let rows = FLOWS.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|words| !words.is_empty()).skip(1);
    rows.map(|words| {
        assert_eq!(words.len(), 11, "{words:?}");
        let client = match words[1] {
            "pod" => L2,
            "node" => Node,
            "ext" => Ext,
            other => panic!("{other}"),
        };
        let at = 3 + 2 * setting as usize;
        Flow {
            policies: words[0],
            client,
            destination: words[2],
            endpoints: words[at],
            source: words[at + 1],
        }
    })
    .collect()
}

const POLICIES: [&str; 3] = ["cluster", "external-local", "internal-local"];

fn number(policies: &str) -> u8 {
    let at = POLICIES.iter().position(|one| *one == policies);
    u8::try_from(at.expect("a policy of the table")).expect("there are three")
}

/// Where the service with these policies is found.
fn address(w: &World, policies: &str, destination: &str) -> (IpAddr, u16) {
    let number = number(policies);
    let vips = [w.family.vip(), w.family.second_vip(), w.family.external_ip()];
    match destination {
        "cluster-ip" => (w.family.cluster_ip(50 + number), 80),
        "node-port" => (w.address(Node), NODE_PORT + u16::from(number)),
        "load-balancer" => (vips[usize::from(number)], 80),
        other => panic!("{other}"),
    }
}

/// With an endpoint here and one elsewhere.
fn service(w: &World, policies: &'static str) -> Svc {
    let exposed = svc()
        .named(policies, 50 + number(policies))
        .node_port(address(w, policies, "node-port").1)
        .load_balancer([address(w, policies, "load-balancer").0]);
    let exposed = match policies {
        "cluster" => exposed,
        "external-local" => exposed.external_local(),
        "internal-local" => exposed.local(),
        other => panic!("{other}"),
    };
    exposed.on([L1, R1])
}

fn as_the_table_says(w: &World, setting: Setting) {
    for policies in POLICIES {
        w.write(service(w, policies));
    }
    w.settle();
    let flows = flows(setting);
    assert_eq!(flows.len(), 27);
    for Flow { policies, client, destination, endpoints, source } in flows {
        let (to, port) = address(w, policies, destination);
        let tries = w.tcp(client, to, port).times(40);
        let replies = match endpoints {
            "all" => tries.only([L1, R1]),
            "here" => tries.only([L1]),
            other => panic!("{other}"),
        };
        match source {
            "kept" => replies.source_kept(),
            "masq" => replies.masqueraded(),
            other => panic!("{other}"),
        };
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("every flow: with a detector", |w| as_the_table_says(w, Setting::Detector)),
        case("every flow: without a detector", |w| as_the_table_says(w, Setting::NoDetector))
            .flag("--cluster-cidr", LEFT_OUT),
        case("every flow: masquerade-all", |w| as_the_table_says(w, Setting::All))
            .flag("--masquerade-all", ""),
        case("every flow: masquerade-all without a detector", |w| {
            as_the_table_says(w, Setting::AllWithoutDetector);
        })
        .flag("--cluster-cidr", LEFT_OUT)
        .flag("--masquerade-all", ""),
    ]
}
