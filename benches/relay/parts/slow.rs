//! Readers that do not read.
//!
//! In: vipd's site. Out: what it holds while endpoints would send for ever, and whether that grows.
//! Never: a comparison: the bar is that there is an end.

use super::vipd;
use crate::process::Held;
use crate::report::{Row, Verdict};
use crate::sites::Site;
use crate::traffic::{SOURCE, request};
use crate::{Effort, Outcome};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

pub fn run(sites: &[Site], effort: Effort) -> Outcome<Vec<Row>> {
    let site = vipd(sites)?;
    let (readers, rest) = effort.pick((50, 1), (300, 4));
    let rest = Duration::from_secs(rest);
    let before = Held::of(site)?;
    let open = site.client.run(|| {
        let mut open = Vec::new();
        for _ in 0..readers {
            let mut stream = TcpStream::connect(site.to)?;
            stream.write_all(&request(SOURCE, u64::MAX))?;
            open.push(stream);
        }
        Ok(open)
    })?;
    std::thread::sleep(rest);
    let soon = Held::of(site)?;
    std::thread::sleep(2 * rest);
    let later = Held::of(site)?;
    drop(open);
    let mb = |held: Held| {
        let [resident, pipes] = [held.resident, held.pipes].map(|bytes| bytes as f64 / 1e6);
        format!("{resident:.1} + {pipes:.1}")
    };
    // A buffer of 64 KiB for each, and what all pipes hold.
    let most = before.resident + readers as u64 * (64 << 10) + (64 << 20);
    let held = later.resident + later.pipes;
    let said = format!(
        "{} MB resident and in pipes; {} after three times as long; {} before",
        mb(soon),
        mb(later),
        mb(before)
    );
    let bar = format!("≤ {:.0} MB, however long", most as f64 / 1e6);
    let row = Row::new(format!("{readers} readers that do not read"), said)
        .bar(bar, Verdict::at_most(held as f64, most as f64))
        .numbers(json!({"soon": soon.resident + soon.pipes, "later": held}));
    Ok(vec![row])
}
