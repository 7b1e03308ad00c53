//! Connection tracking values: those that are asked for are set, no others, and none is a reason
//! not to serve.

use super::support::manifests::svc;
use super::support::nft::tables;
use super::support::plan::{L1, L2, Node};
use super::support::runner::{Case, case};
use super::support::vipd::arguments;
use super::support::world::World;

/// Each with a value that nobody has by default.
const ODD: [(&str, &str); 5] = [
    ("nf_conntrack_tcp_timeout_established", "4321"),
    ("nf_conntrack_tcp_timeout_close_wait", "4322"),
    ("nf_conntrack_tcp_be_liberal", "0"),
    ("nf_conntrack_udp_timeout", "43"),
    ("nf_conntrack_udp_timeout_stream", "4324"),
];

fn put_odd_values(w: &World) {
    for (name, value) in ODD {
        w.sh(Node, &format!("echo {value} > /proc/sys/net/netfilter/{name}"));
    }
}

fn held(w: &World, name: &str) -> String {
    w.sh(Node, &format!("cat /proc/sys/net/netfilter/{name}")).trim().to_owned()
}

fn assert_odd_values(w: &World) {
    for (name, value) in ODD {
        assert_eq!(held(w, name), value, "{name}");
    }
}

/// What the log says of a file.
fn told(w: &World, name: &str) -> Vec<String> {
    let log = w.log();
    log.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("values that are asked for are set in the node's namespace, no others", |w| {
            put_odd_values(w);
            w.start(&[
                ("--conntrack-tcp-timeout-established", "1h1m"),
                ("--conntrack-tcp-be-liberal", ""),
                ("--conntrack-udp-timeout", "0"),
                ("--conntrack-udp-timeout-stream", "90s"),
            ]);
            for (name, value) in [
                ("nf_conntrack_tcp_timeout_established", "3660"),
                ("nf_conntrack_tcp_timeout_close_wait", "4322"),
                ("nf_conntrack_tcp_be_liberal", "1"),
                ("nf_conntrack_udp_timeout", "43"),
                ("nf_conntrack_udp_timeout_stream", "90"),
            ] {
                assert_eq!(held(w, name), value, "{name}");
            }
            assert!(!w.log_of_node().contains("WARN"), "{}", w.log());
            w.terminate();
            w.sh(Node, "echo 7 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream");
            w.start(&[
                ("--conntrack-tcp-timeout-close-wait", "45m"),
                ("--conntrack-udp-timeout", "21s"),
            ]);
            for (name, value) in [
                ("nf_conntrack_tcp_timeout_established", "3660"),
                ("nf_conntrack_tcp_timeout_close_wait", "2700"),
                ("nf_conntrack_udp_timeout", "21"),
                ("nf_conntrack_udp_timeout_stream", "7"),
            ] {
                assert_eq!(held(w, name), value, "{name}");
            }
        })
        .once()
        .without_vipd(),
        case("without a flag no value is touched", |w| {
            put_odd_values(w);
            let max = held(w, "nf_conntrack_max");
            w.start(&[]);
            w.serve(svc().on([L1]));
            assert_odd_values(w);
            assert_eq!(held(w, "nf_conntrack_max"), max);
            assert!(!w.log().contains("nf_conntrack"), "{}", w.log());
        })
        .once()
        .without_vipd(),
        case("a value that cannot be written is one warning, and the node is served", |w| {
            // The kernel has one table for all namespaces, and only the first may size it.
            let before = held(w, "nf_conntrack_max");
            let entries = before.parse::<u64>().expect("a number") + 1;
            w.start(&[
                ("--conntrack-min", Box::leak(entries.to_string().into_boxed_str())),
                ("--conntrack-udp-timeout", "21s"),
            ]);
            let warnings = told(w, "nf_conntrack_max");
            assert_eq!(warnings.len(), 1, "{}", w.log());
            for part in ["WARN", "/proc/sys/net/netfilter/", &entries.to_string(), "denied"] {
                assert!(warnings[0].contains(part), "{part} is missing: {}", warnings[0]);
            }
            assert_eq!(held(w, "nf_conntrack_max"), before);
            assert!(told(w, "parameters/hashsize").is_empty(), "{}", w.log());
            assert_eq!(held(w, "nf_conntrack_udp_timeout"), "21", "the others are set");
            w.serve(svc().on([L1]));
            w.tcp(L2, w.cip(), 80).times(3).only([L1]);
        })
        .once()
        .without_vipd(),
        case("--init-only sets the values and ends, with 2 and a reason if one is refused", |w| {
            put_odd_values(w);
            let init = |flags: &[(&'static str, &'static str)]| {
                let flags = [&[("--init-only", "")], flags].concat();
                w.vipd(&arguments(w.manifests(), &flags).join(" "))
            };
            let good = init(&[("--conntrack-udp-timeout", "21s")]);
            assert_eq!(good.code, 0, "{}", good.out);
            assert_eq!(held(w, "nf_conntrack_udp_timeout"), "21");
            let before = held(w, "nf_conntrack_max");
            let entries = before.parse::<u64>().expect("a number") + 1;
            let entries: &str = Box::leak(entries.to_string().into_boxed_str());
            let bad = init(&[("--conntrack-min", entries), ("--conntrack-udp-timeout", "22s")]);
            assert_eq!(bad.code, 2, "{}", bad.out);
            let last = bad.out.lines().last().unwrap_or_default();
            for part in ["--init-only", "nf_conntrack_max", entries, "denied"] {
                assert!(last.contains(part), "{part} is missing: {}", bad.out);
            }
            assert_eq!(held(w, "nf_conntrack_max"), before);
            assert_eq!(held(w, "nf_conntrack_udp_timeout"), "22", "the others are set");
            assert_eq!(tables(w.netns(Node)), [""; 0], "nothing is programmed");
        })
        .once()
        .without_vipd(),
    ]
}
