//! Resident memory of `vipd run`, at rest and at its peak.
//!
//! In: manifests. Out: VmRSS half a minute after the last change, and VmHWM.
//! Never: a figure taken while something is still being freed.

use crate::daemon::Daemon;
use crate::generate::{Cluster, Shape};
use crate::manifests::{Format, Manifests};
use crate::nft::Census;
use crate::report::{Row, Verdict};
use crate::world::Namespace;
use crate::{Effort, Outcome, progress};
use serde_json::json;
use std::time::Duration;

const CHANGES: usize = 1_000;

pub fn run(effort: Effort) -> Outcome<Vec<Row>> {
    let shape = effort.pick(Shape::new(10_000, 2), Shape::new(100_000, 2));
    let mut rows = Vec::new();
    for (name, format) in [("JSON", Format::Json), ("YAML", Format::Yaml)] {
        let mut cluster = Cluster::new(shape);
        let manifests = Manifests::write(&cluster, format, CHANGES)?;
        let namespace = Namespace::new()?;
        let mut daemon = Daemon::start(&namespace, &manifests)?;
        daemon.settled(&mut Census::open(&namespace, "vipd")?, cluster.elements())?;
        for service in 0..CHANGES {
            cluster.renumber(service);
            manifests.update(&cluster, service)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        progress(&format!("memory: {} as {name}, 30 s of rest", shape.name()));
        std::thread::sleep(Duration::from_secs(30));
        let (resident, peak) = (daemon.memory("VmRSS")?, daemon.memory("VmHWM")?);
        let megabytes = |kilobytes: u64| kilobytes as f64 * 1024.0 / 1e6;
        let small = megabytes(resident) <= 80.0;
        let verdict = if small && peak <= 2 * resident { Verdict::Met } else { Verdict::Missed };
        let ratio = peak as f64 / resident as f64;
        rows.push(
            Row::new(
                format!(
                    "resident memory at {} {name}, 30 s after {CHANGES} changes / peak",
                    shape.name()
                ),
                format!("{:.0} / {:.0} MB ({ratio:.2}×)", megabytes(resident), megabytes(peak)),
            )
            .bar("≤ 80 MB / ≤ 2×", verdict)
            .numbers(json!({"resident_kib": resident, "peak_kib": peak})),
        );
    }
    Ok(rows)
}
