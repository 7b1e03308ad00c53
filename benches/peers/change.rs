//! How soon a change works, proxy by proxy, in turns within one run.
//!
//! In: [`Site`]s that hold everything. Out: p50 and p99 of each, ratios round by round, CPU time.
//! Never: two proxies at work at once: on two processors kube-proxy's would be taken from whom it is
//! compared with. Who has no turn is stopped (SIGSTOP); before its turn is measured it catches up.

use crate::follow::{Changes, Course};
use crate::generate::Cluster;
use crate::plane::Plane;
use crate::proxies::Peer;
use crate::report::{Row, Verdict};
use crate::sites::Site;
use crate::stats::{median, quantile, ratio};
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// Changes of each turn that only show that the proxy has caught up.
const WARM_UP: usize = 3;
/// Seconds: what processor time is counted in. Nothing seen is no more than this.
const TICK: f64 = 0.01;
/// Afterwards, and before a proxy is stopped: longer than kube-proxy's own period.
const REST: Duration = Duration::from_millis(1_500);

/// What was found of one proxy.
#[derive(Default)]
struct Found {
    times: Vec<f64>,
    p50_by_round: Vec<f64>,
    cpu_ms_by_round: Vec<f64>,
}

impl Found {
    fn quantiles(&self) -> String {
        let (p50, p99) = (median(&self.times), quantile(&self.times, 0.99));
        format!("{p50:.2} / {p99:.2} ms (n={})", self.times.len())
    }
}

/// `sites`: vipd's, then those of its peers. They are stopped before and after.
pub fn run(
    plane: &Plane,
    cluster: &mut Cluster,
    (sites, effort): (&[Site], Effort),
) -> Outcome<Vec<Row>> {
    let shape = format!("{}×2", cluster.services.len());
    let rounds = effort.pick(2, 6);
    let stop = AtomicBool::new(false);
    let mut found: Vec<Found> = sites.iter().map(|_| Found::default()).collect();
    scope(|scope| {
        let mut turns = || -> Outcome<()> {
            let mut changes = Changes::new(plane, cluster);
            let courses: Vec<Course<'_>> = sites
                .iter()
                .map(|site| Course::open(site, scope, &stop))
                .collect::<Outcome<_>>()?;
            for round in 1..=rounds {
                for ((site, course), found) in sites.iter().zip(&courses).zip(&mut found) {
                    let count = match site.peer {
                        Peer::Vipd => effort.pick(10, 36),
                        Peer::Soonest => effort.pick(6, 20),
                        Peer::Defaults => effort.pick(4, 10),
                    };
                    progress(&format!("change: round {round} of {rounds}, {}", site.peer.name()));
                    site.resume()?;
                    course.block(&mut changes, WARM_UP)?;
                    sleep(REST);
                    let before = site.daemon.cpu_seconds()?;
                    let times = course.block(&mut changes, count)?;
                    sleep(REST);
                    let cpu = (site.daemon.cpu_seconds()? - before).max(TICK);
                    site.pause()?;
                    found.cpu_ms_by_round.push(cpu * 1e3 / count as f64);
                    found.p50_by_round.push(median(&times));
                    found.times.extend(times);
                }
            }
            Ok(())
        };
        let outcome = turns();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok(judge(&shape, sites, (&found, effort)))
}

fn judge(shape: &str, sites: &[Site], (found, effort): (&[Found], Effort)) -> Vec<Row> {
    const SOONER: f64 = 20.0;
    let ours = &found[0];
    let what = format!("PUT answered → first connection that follows it, {shape}, p50 / p99");
    let (p50, p99) = (median(&ours.times), quantile(&ours.times, 0.99));
    let met = if p50 <= 5.0 && p99 <= 25.0 { Verdict::Met } else { Verdict::Missed };
    let alone = Row::new(format!("vipd: {what}"), ours.quantiles())
        .numbers(json!({"samples_ms": ours.times}));
    let is_full = effort == Effort::Full;
    let mut rows = vec![if is_full { alone.bar("≤ 5 / 25 ms", met) } else { alone }];
    for (site, theirs) in sites.iter().zip(found).skip(1) {
        let sooner = ratio(&theirs.p50_by_round, &ours.p50_by_round);
        let row = Row::new(format!("vipd: {what}"), ours.quantiles())
            .floor(format!("{}: {}", site.peer.name(), theirs.quantiles()), sooner)
            .numbers(json!({"p50_ms": ours.p50_by_round, "peer_p50_ms": theirs.p50_by_round,
                            "peer_samples_ms": theirs.times}));
        rows.push(match is_full && site.peer == Peer::Soonest {
            true => row.bar(
                format!("≥ {SOONER}× sooner (kube-proxy / vipd)"),
                Verdict::at_most(SOONER, sooner.low),
            ),
            false => row,
        });
    }
    for (site, theirs) in sites.iter().zip(found).skip(1) {
        let [ours, theirs] = [ours, theirs].map(|found| &found.cpu_ms_by_round);
        rows.push(
            Row::new(
                format!("vipd: CPU time per change, {shape}"),
                format!("{:.2} ms", median(ours)),
            )
            .floor(format!("{}: {:.2} ms", site.peer.name(), median(theirs)), ratio(theirs, ours))
            .numbers(json!({"cpu_ms": ours, "peer_cpu_ms": theirs})),
        );
    }
    rows
}
