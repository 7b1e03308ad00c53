//! Endpoints of relayed Services that die under load, while nobody has told vipd of it.

use super::support::load::Attempts;
use super::support::manifests::svc;
use super::support::plan::{Ext, L1, L2, L3, Node, R1, Who};
use super::support::runner::{Case, case, skip, soak};
use super::support::servers::{Tcp, server_process};
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const CONNECTIONS_PER_SECOND: u32 = 500;

fn clients(w: &World) -> Vec<(Who, IpAddr)> {
    [L2, L3, Node, Ext].map(|who| (who, w.family.client_address(who))).into()
}

/// What clients see while L1 dies; R1 lives.
fn attempts(w: &World, dies: impl FnOnce()) -> (Attempts, Instant) {
    w.serve(svc().relayed().on([L1, R1]));
    let load = || w.crowd(&clients(w), (w.cip(), 80), CONNECTIONS_PER_SECOND);
    let before = load();
    w.sleep(1000);
    let before = before.stop();
    if !before.failed().is_empty() && !soak() {
        skip(&format!("this machine is too busy for such a load: {before}, while both live"));
    }
    let load = load();
    w.sleep(1000);
    dies();
    let died = Instant::now();
    w.sleep(if soak() { 20_000 } else { 4000 });
    (load.stop(), died)
}

/// Until it was ejected, and no longer, it cost connections time.
fn was_left_out(w: &World) {
    let metrics = w.vipd("metrics").out;
    let dead = format!("{}\"", SocketAddr::new(w.address(L1), 8080));
    let ejected = metrics.lines().any(|line| {
        line.starts_with("vipd_relay")
            && line.contains("eject")
            && line.contains(&dead)
            && !line.ends_with(" 0")
    });
    assert!(ejected, "{metrics}");
}

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case("an endpoint's process is killed: none of 500 connections a second fails", |w| {
            let at = SocketAddr::new(w.address(L1), 8080);
            w.servers(L1).close(Tcp, at);
            let mut server = server_process(w.netns(L1), at);
            let (attempts, _) = attempts(w, || {
                server.kill().expect("own child");
                server.wait().expect("own child");
            });
            attempts.at_rate(CONNECTIONS_PER_SECOND).of_clients(4);
            let failed = attempts.failed();
            assert!(failed.is_empty(), "{attempts}: {:?}", &failed[..failed.len().min(20)]);
            was_left_out(w);
        })
        .alone(),
        case("an endpoint's link goes down: none of 500 connections a second fails", |w| {
            let (attempts, died) = attempts(w, || drop(w.sh(L1, "ip link set eth0 down")));
            attempts.at_rate(CONNECTIONS_PER_SECOND).of_clients(4);
            // Who had reached it before waits for an answer that nobody can give.
            let on_the_way = died - Duration::from_millis(100);
            let mut failed = attempts.failed();
            failed.retain(|one| one.started > died || one.started < on_the_way);
            assert!(failed.is_empty(), "{attempts}: {:?}", &failed[..failed.len().min(20)]);
            was_left_out(w);
        })
        .alone(),
    ];
    cases.into_iter().map(Case::names_its_carrier).collect()
}
