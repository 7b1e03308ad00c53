//! What the proxies cost when nothing changes: memory, and processor time.
//!
//! In: [`Site`]s that have followed changes. Out: VmRSS 30 s after the last one, CPU time of a
//! minute, and of the whole run.
//! Never: a figure of a proxy that is stopped.

use crate::proxies::Peer;
use crate::report::{Row, Verdict};
use crate::sites::Site;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::thread::sleep;
use std::time::Duration;

pub fn run(shape: &str, (sites, effort): (&[Site], Effort)) -> Outcome<Vec<Row>> {
    // The minute begins when everybody has caught up.
    let (before, half, whole) = effort.pick((5, 5, 10), (10, 20, 60));
    progress(&format!("rest: {} s", before + whole));
    let seconds = Duration::from_secs;
    sites.iter().try_for_each(Site::resume)?;
    sleep(seconds(before));
    let began = cpu(sites)?;
    sleep(seconds(half));
    let memory: Vec<u64> =
        sites.iter().map(|site| site.daemon.memory("VmRSS")).collect::<Outcome<_>>()?;
    sleep(seconds(whole - half));
    let ended = cpu(sites)?;
    let megabytes: Vec<f64> = memory.iter().map(|&kib| kib as f64 * 1024.0 / 1e6).collect();
    let idle: Vec<f64> = began.iter().zip(&ended).map(|(from, to)| (to - from) * 1e3).collect();
    let is_full = effort == Effort::Full;
    let rows = [
        (
            format!("resident memory, {shape}, {} s after the last change", before + half),
            (&megabytes, "MB"),
            is_full.then_some((60.0, "≤ 60 MB")),
        ),
        (
            format!("CPU time of {whole} s without a change, {shape}"),
            (&idle, "ms"),
            is_full.then_some((60.0, "≤ 60 ms")),
        ),
        (
            format!("CPU time since its start, {shape}, changes and catching up"),
            (&ended, "s"),
            None,
        ),
    ];
    Ok(rows
        .into_iter()
        .map(|(what, (values, unit), bar)| row(sites, what, (values, unit), bar))
        .collect())
}

fn cpu(sites: &[Site]) -> Outcome<Vec<f64>> {
    sites.iter().map(|site| site.daemon.cpu_seconds()).collect()
}

fn row(
    sites: &[Site],
    what: String,
    (values, unit): (&[f64], &str),
    bar: Option<(f64, &str)>,
) -> Row {
    let said = |value: f64| match unit {
        "s" => format!("{value:.2} {unit}"),
        _ => format!("{value:.0} {unit}"),
    };
    let of = |site: &Site, value: f64| format!("{}: {}", site.peer.name(), said(value));
    let (mut ours, mut peers, mut numbers) = (0.0, Vec::new(), json!({"unit": unit}));
    for (site, &value) in sites.iter().zip(values) {
        numbers[site.peer.name()] = json!(value);
        match site.peer {
            Peer::Vipd => ours = value,
            Peer::Soonest | Peer::Defaults => peers.push(of(site, value)),
        }
    }
    let row = Row::new(format!("vipd: {what}"), said(ours)).numbers(numbers);
    let row = Row { floor: peers.join("; "), ..row };
    match bar {
        Some((most, bar)) => row.bar(bar, Verdict::at_most(ours, most)),
        None => row,
    }
}
