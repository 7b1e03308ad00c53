//! vipd comes and goes: the rules stay, and what it finds is adopted.

use super::support::manifests::{slice, svc};
use super::support::netns::Said;
use super::support::nft::{listing, tables};
use super::support::plan::{Ext, L1, L2, L3, Node, R1, R2, Who};
use super::support::runner::{Case, case, skip};
use super::support::servers::Udp;
use super::support::vipd::{PROGRAM, arguments};
use super::support::world::World;
use std::path::Path;
use std::time::Duration;

/// A table of somebody else.
fn foreign_table(w: &World) {
    w.netns(Node).nft("add table inet foreign; add chain inet foreign keep { type filter hook forward priority 5; }");
}

fn has_foreign_table(w: &World) -> bool {
    tables(w.netns(Node)).contains(&"table inet foreign".to_owned())
}

/// A command of vipd as root without these capabilities (`-net_admin,-sys_admin`).
fn vipd_without(w: &World, capabilities: &str, arguments: &str) -> Said {
    let setpriv = format!("setpriv --inh-caps={capabilities} --bounding-set={capabilities}");
    let node = w.netns(Node);
    let possible = node.try_sh(&format!("{setpriv} true"));
    if possible.code != 0 {
        skip(&format!("`{setpriv}`: {}", possible.out));
    }
    node.try_sh(&format!("{setpriv} {PROGRAM} {arguments}"))
}

fn pins(w: &World) -> Vec<Who> {
    let sticky = w.family.cluster_ip(42);
    let pin = |client| w.tcp(Ext, sticky, 80).from(client).untraced().one_server();
    w.family.crowd().into_iter().map(pin).collect()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a second vipd in the namespace ends with 2 and names the first one's pid", |w| {
            w.serve(svc().on([L1]));
            let second =
                arguments(w.manifests(), &[("--admin-socket", "/run/second.sock")]).join(" ");
            let said = w.vipd(&second);
            assert_eq!(said.code, 2, "{}", said.out);
            assert!(
                said.out.contains(&w.pid().to_string()),
                "{} is not named: {}",
                w.pid(),
                said.out
            );
            let contained =
                w.netns(Node).try_sh(&format!("unshare --fork --pid {PROGRAM} {second}"));
            assert_eq!(contained.code, 2, "{}", contained.out);
            assert!(contained.out.contains("PID namespace"), "{}", contained.out);
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
            w.kill();
            w.start(&[]);
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
        }),
        case("cleanup while vipd runs ends with 2 and names its pid; the service goes on", |w| {
            w.serve(svc().on([L1]));
            let before = listing(w.netns(Node));
            let said = w.vipd("cleanup");
            assert_eq!(said.code, 2, "{}", said.out);
            assert!(said.out.contains(&format!("pid {}", w.pid())), "{}", said.out);
            assert_eq!(listing(w.netns(Node)), before);
            w.tcp(L2, w.cip(), 80).times(10).only([L1]);
        })
        .once(),
        case("without CAP_NET_ADMIN run and cleanup end with 2, name it and change nothing", |w| {
            w.serve(svc().on([L1]));
            w.terminate();
            let before = listing(w.netns(Node));
            let run = arguments(w.manifests(), &[]).join(" ");
            for command in ["cleanup", run.as_str()] {
                let said = vipd_without(w, "-net_admin", command);
                assert_eq!(said.code, 2, "{command}: {}", said.out);
                assert!(said.out.contains("CAP_NET_ADMIN"), "{command}: {}", said.out);
            }
            assert_eq!(listing(w.netns(Node)), before);
        })
        .once(),
        case("a directory that may not be listed: run ends with 2 and says what to check", |w| {
            w.sh(Node, "mkdir --mode=0 /run/closed");
            let run = arguments(Path::new("/run/closed"), &[]).join(" ");
            let said = vipd_without(w, "-dac_override,-dac_read_search", &run);
            assert_eq!(said.code, 2, "{}", said.out);
            for part in ["/run/closed", "check that it exists", "may list it"] {
                assert!(said.out.contains(part), "{part} is missing: {}", said.out);
            }
            assert_eq!(tables(w.netns(Node)), [""; 0]);
        })
        .once()
        .without_vipd(),
        case("SIGTERM ends it with 0 and leaves the rules in place", |w| {
            w.serve(svc().on([L1, R1]));
            let before = listing(w.netns(Node));
            let status = w.terminate();
            assert!(status.success(), "{status}");
            assert_eq!(listing(w.netns(Node)), before);
            w.tcp(L2, w.cip(), 80).times(100).spread([L1, R1]).source_kept();
            w.tcp(Ext, w.cip(), 80).times(100).spread([L1, R1]).masqueraded();
            w.tcp(L2, w.cip(), 81).times(3).refused();
        }),
        case(
            "62 a restart without changes writes nothing to the tables, and no foreign table is touched",
            |w| {
                foreign_table(w);
                w.serve(svc().sticky(600).on([L1, R1]));
                w.serve(svc().named("other", 42).udp().on([L1]));
                w.tcp(L2, w.cip(), 80).times(5).one_server();
                w.terminate();
                w.launch_over_the_same(Duration::from_secs(5));
                w.settle();
                w.tcp(L2, w.cip(), 80).times(5).one_server();
                assert!(has_foreign_table(w));
            },
        ),
        case(
            "killed under load and started again with other endpoints: no failure, no pin lost",
            |w| {
                w.write(svc().on([L1, R1]));
                w.write(svc().named("sticky", 42).sticky(600).on([L1, L3, R1]));
                w.write(svc().named("gone", 43).on([L1]));
                w.serve(svc().named("kept", 44).on([L2]));
                let before = pins(w);
                let loads = [L3, Node, Ext].map(|who| w.load(who, w.cip(), 80, 60));
                w.sleep(300);
                w.kill();
                w.sleep(300);
                w.write(slice([L1, R2]));
                w.write(svc().named("new", 45).on([L3]));
                for file in ["gone.yaml", "gone-slice-a.yaml"] {
                    std::fs::remove_file(w.manifests().join(file)).expect("written above");
                }
                w.start(&[]);
                w.sleep(300);
                for load in loads {
                    let replies = load.stop();
                    assert!(replies.outcomes.len() > 40, "{replies}");
                    replies.reached();
                }
                assert_eq!(pins(w), before);
                w.tcp(L2, w.cip(), 80).times(100).spread([L1, R2]);
                w.tcp(L1, w.family.cluster_ip(43), 80).times(2).dropped();
                w.tcp(L1, w.family.cluster_ip(44), 80).times(10).only([L2]);
                w.tcp(L1, w.family.cluster_ip(45), 80).times(10).only([L3]);
            },
        )
.kernel_only("what vipd carries ends with it; see `userspace: killed, it leaves new connections to the kernel`"),
        case("a table that was made dormant while nobody looked serves after a restart", |w| {
            w.serve(svc().on([L1, R1]));
            w.terminate();
            w.netns(Node).nft("add table inet vipd { flags dormant; }");
            // What passes now is remembered untranslated: another client's next port may be the same.
            let asleep = w.tcp(L3, w.cip(), 80).patience(Duration::from_millis(400)).replies();
            assert!(asleep.answers().is_empty(), "{asleep}");
            w.start(&[]);
            w.tcp(L2, w.cip(), 80).times(60).spread([L1, R1]);
        }),
        case("killed and started over and over: always served", |w| {
            w.serve(svc().on([L1, R1]));
            let load = w.load(L2, w.cip(), 80, 100);
            for _ in 0..5 {
                w.kill();
                w.start(&[]);
            }
            load.stop().reached();
        })
.kernel_only("what vipd carries ends with it; see `userspace: killed, it leaves new connections to the kernel`"),
        case("63 cleanup leaves nothing of vipd, touches nothing foreign and ends with 0", |w| {
            foreign_table(w);
            w.write(svc().sticky(100).on([L1, R1]));
            w.serve(svc().named("udp", 42).udp().on([L1]));
            w.tcp(L2, w.cip(), 80).times(10).reached();
            let udp = w.talking(L2, Udp, w.family.cluster_ip(42), 80);
            w.answered_by(&udp, L1);
            drop(udp);
            w.terminate();
            w.tcp(L2, w.cip(), 80).times(10).reached();
            let said = w.vipd("cleanup");
            assert_eq!(said.code, 0, "{}", said.out);
            assert_eq!(tables(w.netns(Node)), ["table inet foreign"]);
            assert_eq!(w.conntrack(w.address(L2), w.family.cluster_ip(42)), [] as [String; 0]);
            let rules = w.sh(Node, "ip rule; ip -6 rule; ip -o link; ip route show table all");
            assert!(!rules.contains("vipd"), "{rules}");
            assert!(
                w.tcp(L2, w.cip(), 80)
                    .patience(Duration::from_millis(400))
                    .replies()
                    .answers()
                    .is_empty()
            );
            let again = w.vipd("cleanup");
            assert_eq!(again.code, 0, "with nothing to clean up: {}", again.out);
            w.start(&[]);
            w.tcp(L2, w.cip(), 80).times(10).reached();
        }),
        case("the flag --cleanup is the command, and leaves kube-proxy's tables alone", |w| {
            w.netns(Node).nft("add table ip kube-proxy; add table ip6 kube-proxy");
            w.serve(svc().on([L1]));
            w.terminate();
            let said = w.vipd("--cleanup");
            assert_eq!(said.code, 0, "{}", said.out);
            assert_eq!(tables(w.netns(Node)), ["table ip kube-proxy", "table ip6 kube-proxy"]);
        })
        .once(),
    ]
}
