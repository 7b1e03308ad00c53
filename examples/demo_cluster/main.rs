//! A walkthrough of Kubernetes on real parts: etcd, API server, controller manager and scheduler,
//! vipd in the place of kube-proxy, and a stand-in for the kubelet.
//!
//! In: those parts as `tests/cluster/build-peers` builds them, the built `vipd` (beside this program,
//! or `VIPD_BIN`), `kubectl`. Out: each command and what it printed; exit status 1 if anything is
//! not as said. `KEEP=1` leaves everything running.
//! Never: anything outside of the namespaces that it makes; anything left of them at its end.

mod cage;
mod cluster;
mod rolling;
mod shell;
mod story;
mod traffic;

#[path = "../../tests/support/control_plane.rs"]
#[allow(dead_code, reason = "the cases of `cluster` use more of it")]
mod control_plane;
#[path = "../../tests/support/kubelet/mod.rs"]
#[allow(dead_code, reason = "tests may have pods that stop otherwise")]
mod kubelet;
#[path = "../../tests/support/netns.rs"]
#[allow(dead_code, reason = "the cases of `netns` use more of it")]
mod netns;
#[path = "../../tests/support/sandbox.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod sandbox;

use std::process::ExitCode;

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");
    let done = match words[..] {
        [cage::PROBE, way] => cage::probe(way),
        [cage::INSIDE] => cage::inside(|| story::tell(keep)),
        [] => cluster::is_all_built().and_then(|()| cage::run()),
        _ => Err("usage: demo_cluster (KEEP=1 leaves everything running)".to_owned()),
    };
    done.unwrap_or_else(|text| {
        eprintln!("demo-cluster: {text}");
        ExitCode::FAILURE
    })
}
