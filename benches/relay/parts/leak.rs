//! What is left of connections that ended.
//!
//! In: vipd's site. Out: files, pipes, active connections and memory before and after.
//! Never: a look before the last one has had time to end.

use super::connections::{First, connection};
use super::vipd;
use crate::process::{Held, count};
use crate::report::{Row, Verdict};
use crate::sites::Site;
use crate::{Effort, Outcome};
use serde_json::json;
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let site = vipd(sites)?;
    let total = effort.pick(5_000, 100_000);
    // The buffers and pipes that are kept are had by then.
    open(site, total / 100)?;
    let before = left(site, None)?;
    open(site, total)?;
    let after = left(site, Some(&before))?;
    let said = |left: &Left| {
        format!(
            "{} sockets, {} pipe ends, {} active, {:.1} MB",
            left.sockets,
            left.pipes,
            left.active,
            left.resident as f64 / 1e6
        )
    };
    let verdict = if after.is_no_more_than(&before) { Verdict::Met } else { Verdict::Missed };
    let row = Row::new(format!("what {total} connections leave"), said(&after))
        .bar("no file, pipe or task", verdict)
        .numbers(json!({"sockets": after.sockets, "pipes": after.pipes, "active": after.active,
            "resident": after.resident, "resident_before": before.resident}));
    Ok(vec![Row { floor: format!("before them: {}", said(&before)), ..row }])
}

struct Left {
    sockets: usize,
    pipes: usize,
    active: u64,
    resident: u64,
}

impl Left {
    fn is_no_more_than(&self, other: &Left) -> bool {
        self.sockets <= other.sockets && self.pipes <= other.pipes && self.active <= other.active
    }
}

/// Waits until it is no more than `wanted`, or for a while.
fn left(site: &Site, wanted: Option<&Left>) -> Outcome<Left> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const REST: Duration = Duration::from_millis(500);
    let began = Instant::now();
    loop {
        std::thread::sleep(REST);
        let left = Left {
            sockets: count(site, "socket:")?,
            pipes: count(site, "pipe:")?,
            active: site.active()?,
            resident: Held::of(site)?.resident,
        };
        if wanted.is_some_and(|wanted| left.is_no_more_than(wanted)) || began.elapsed() > PATIENCE {
            return Ok(left);
        }
    }
}

fn open(site: &Site, total: usize) -> Outcome<()> {
    site.among_clients(async || {
        let clients = (0..CLIENTS).map(async |number| {
            // Half of them are closed by the client, half by the endpoint.
            let first = if number % 2 == 0 { First::Client } else { First::Endpoint };
            for _ in 0..total.div_ceil(CLIENTS) {
                connection(site.to, first).await?;
            }
            std::io::Result::Ok(())
        });
        futures_util::future::try_join_all(clients).await?;
        Ok(())
    })
}
