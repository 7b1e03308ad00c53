//! Rolling updates under load: pods are replaced one by one, and the old ones refuse connections
//! soon after their slice says that they terminate.

use super::support::clients::Outcome;
use super::support::load::Attempts;
use super::support::manifests::{Ep, extra, slice, svc, tcp};
use super::support::plan::{Ext, L1, L2, L3, Node, Who};
use super::support::runner::{Case, case, soak};
use super::support::servers::Tcp;
use super::support::world::World;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

const PORT: u16 = 8088;
const REPLICAS: u32 = 10;
const CONNECTIONS_PER_SECOND: u32 = 500;

/// How long after its slice says so a terminating pod still takes connections.
const GRACE: Duration = Duration::from_millis(20);

/// When an old pod begins to refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refuses {
    AfterGrace,
    /// Wrong: nobody could know of it in time.
    BeforeItTerminates,
}

/// The replicas of a Deployment, each with an address of its own; the oldest goes first.
struct Replicas<'w> {
    w: &'w World,
    oldest: u32,
}

/// One pod replaced by another.
struct Update {
    /// When the slice that says so was in its place.
    terminating: Instant,
    /// When the old pod refused all connections.
    refusing: Instant,
}

impl Replicas<'_> {
    fn serve(w: &World) -> Replicas<'_> {
        let replicas = Replicas { w, oldest: 0 };
        let all = 0..=REPLICAS - 1;
        all.clone().for_each(|n| replicas.listen(n));
        w.serve(svc().on(replicas.endpoints(all)).to(PORT));
        replicas
    }

    /// Addresses come back after 240 pods.
    fn at(&self, n: u32) -> SocketAddr {
        let host = u8::try_from(1 + n % 240).expect("at most 240");
        SocketAddr::new(self.w.family.extra_endpoint(host), PORT)
    }

    fn listen(&self, n: u32) {
        self.w.servers(L1).listen([(Tcp, self.at(n))]);
    }

    fn close(&self, n: u32) {
        self.w.servers(L1).close(Tcp, self.at(n));
    }

    fn endpoints(&self, pods: RangeInclusive<u32>) -> Vec<Ep> {
        pods.map(|n| extra(self.at(n).ip())).collect()
    }

    fn write(&self, endpoints: Vec<Ep>) {
        self.w.write(slice(endpoints).ports([tcp("", PORT)]));
    }

    /// The new pod is ready; then the old one is terminating, refuses, and is gone.
    fn update(&mut self, refuses: Refuses) -> Update {
        let (old, new) = (self.oldest, self.oldest + REPLICAS);
        self.listen(new);
        self.write(self.endpoints(old..=new));
        self.w.sleep(15);
        let kept = || self.endpoints(old + 1..=new);
        let and_old = [extra(self.at(old).ip()).draining()].into_iter().chain(kept());
        if refuses == Refuses::BeforeItTerminates {
            self.close(old);
            self.w.sleep(20);
        }
        self.write(and_old.collect());
        let terminating = Instant::now();
        self.w.sleep_until(terminating + GRACE);
        self.close(old);
        let refusing = Instant::now();
        self.w.sleep(20);
        self.write(kept());
        self.w.sleep(15);
        self.oldest += 1;
        Update { terminating, refusing }
    }

    fn updates(&mut self, count: u32, refuses: Refuses) -> Vec<Update> {
        (0..count).map(|_| self.update(refuses)).collect()
    }
}

/// Two pods, the node and nine outsiders.
fn clients(w: &World) -> Vec<(Who, IpAddr)> {
    let inside = [L2, L3, Node, Ext].map(|who| (who, w.family.client_address(who)));
    let crowd = w.family.crowd().into_iter().take(8).map(|address| (Ext, address));
    inside.into_iter().chain(crowd).collect()
}

/// Half of the old pods refused this long after their slices said that they terminate, or sooner.
fn usual_grace(updates: &[Update]) -> Duration {
    let mut graces: Vec<Duration> =
        updates.iter().map(|one| one.refusing.duration_since(one.terminating)).collect();
    graces.sort();
    graces[graces.len() / 2]
}

/// A failed connection, and what the update that was under way had come to when it started.
fn told(failed: &Outcome, updates: &[Update]) -> String {
    let Outcome { from, started, connected, ending, took } = failed;
    let last = updates.iter().rposition(|one| one.terminating <= *started);
    let since = last.map_or("before the first update".to_owned(), |nth| {
        let Update { terminating, refusing } = updates[nth];
        let (begun, grace) = (*started - terminating, refusing - terminating);
        format!("{begun:.1?} after update {nth} (which refused after {grace:.1?})")
    });
    format!("{from}, {since}: {ending:?} after {took:.1?}, connected after {connected:.1?}\n")
}

/// How much later than asked a sleep of 20 ms ends on a machine that runs its processes.
const LATE: Duration = Duration::from_millis(5);

/// Where this process itself was not run for a while, vipd was not either: what failed in such an
/// update is told and set aside, unless there are many of them. In the long runs nothing is.
#[track_caller]
fn none_failed(attempts: &Attempts, updates: &[Update]) {
    let is_late = |one: &Update| one.refusing.duration_since(one.terminating) > GRACE + LATE;
    let late = updates.iter().filter(|one| is_late(one)).count();
    let excused = |failed: &Outcome| {
        let during = updates.iter().rev().find(|one| one.terminating <= failed.started);
        during.is_some_and(is_late) && late * 20 <= updates.len() && !soak()
    };
    let (aside, failed): (Vec<_>, Vec<_>) =
        attempts.failed().into_iter().partition(|one| excused(one));
    let told = |some: &[&Outcome]| -> String {
        some.iter().take(20).map(|one| told(one, updates)).collect()
    };
    if !aside.is_empty() {
        println!("!!!! set aside, {late} updates came late on this machine:\n{}", told(&aside));
    }
    let count = updates.len();
    assert!(failed.is_empty(), "{attempts} during {count} updates:\n{}", told(&failed));
}

/// The bar: none of 500 connections a second fails while ten replicas are replaced, one after the
/// other, so many times.
#[track_caller]
pub fn none_fails(w: &World, count: u32) {
    let mut replicas = Replicas::serve(w);
    let load = w.crowd(&clients(w), (w.cip(), 80), CONNECTIONS_PER_SECOND);
    let updates = replicas.updates(count, Refuses::AfterGrace);
    let attempts = load.stop();
    println!("{attempts}, {} updates, usual grace {:?}", updates.len(), usual_grace(&updates));
    attempts.at_rate(CONNECTIONS_PER_SECOND).of_clients(8);
    none_failed(&attempts, &updates);
    assert!(usual_grace(&updates) < GRACE + LATE, "{attempts}");
}

/// What must be seen where old pods refuse too early, or vipd is too slow.
#[track_caller]
pub fn some_fail(w: &World, refuses: Refuses) {
    let mut replicas = Replicas::serve(w);
    let load = w.crowd(&clients(w), (w.cip(), 80), CONNECTIONS_PER_SECOND);
    replicas.updates(20, refuses);
    let attempts = load.stop();
    assert!(attempts.failed().len() > 3, "{attempts}");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a rolling update of ten replicas: none of 500 connections a second fails", |w| {
            none_fails(w, if soak() { 1000 } else { 60 });
        })
        .alone(),
        case(
            "a rolling update whose old pods refuse before their slice says so is seen to fail",
            |w| some_fail(w, Refuses::BeforeItTerminates),
        )
        .kernel_only("the relay tries another endpoint, and none fails")
        .alone(),
    ]
}
