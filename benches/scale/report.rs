//! What was found, as a table for people and JSON for machines.
//!
//! In: [`Row`]s. Out: text. The bars are judged here and nowhere else.
//! Never: an exit code: a missed bar is a result.

use crate::Outcome;
use crate::stats::Estimate;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// A floor or a control: there is nothing to reach.
    NoBar,
}

impl Verdict {
    pub fn at_most(value: f64, bar: f64) -> Self {
        if value <= bar { Verdict::Met } else { Verdict::Missed }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Met => "yes",
            Verdict::Missed => "NO",
            Verdict::NoBar => "–",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Row {
    pub what: String,
    pub measured: String,
    /// What it is held against, and how long that took.
    pub floor: String,
    pub ratio: Option<Estimate>,
    pub bar: String,
    pub verdict: Verdict,
    /// The same in numbers, for the JSON.
    pub numbers: Value,
}

impl Row {
    pub fn new(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            floor: "–".into(),
            ratio: None,
            bar: "–".into(),
            verdict: Verdict::NoBar,
            numbers: json!({}),
        }
    }

    pub fn numbers(mut self, numbers: Value) -> Self {
        self.numbers = numbers;
        self
    }

    pub fn floor(mut self, floor: impl Into<String>, ratio: Estimate) -> Self {
        self.floor = floor.into();
        self.ratio = Some(ratio);
        self
    }

    /// Met when the upper end of the ratio's interval meets it.
    pub fn ratio_bar(mut self, bar: f64) -> Self {
        self.bar = format!("≤ {bar}×");
        self.verdict = self.ratio.map_or(Verdict::NoBar, |r| Verdict::at_most(r.high, bar));
        self
    }

    /// Met when the lower end of the ratio's interval meets it.
    #[allow(dead_code, reason = "`relay` uses it")]
    pub fn ratio_bar_at_least(mut self, bar: f64) -> Self {
        self.bar = format!("≥ {bar}×");
        self.verdict = self.ratio.map_or(Verdict::NoBar, |r| Verdict::at_most(bar, r.low));
        self
    }

    pub fn bar(mut self, bar: impl Into<String>, verdict: Verdict) -> Self {
        self.bar = bar.into();
        self.verdict = verdict;
        self
    }
}

pub fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["what", "measured", "floor or peer", "ratio (95 %)", "bar", "met"]);
    for row in rows {
        let ratio = row.ratio.map_or("–".to_owned(), |r| {
            format!("{:.2} ({:.2}–{:.2}, n={})", r.median, r.low, r.high, r.rounds)
        });
        table.add_row([&row.what, &row.measured, &row.floor, &ratio, &row.bar, row.verdict.name()]);
    }
    table.to_string()
}

pub fn write_json(rows: &[Row], path: &Path) -> Outcome<()> {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "what": row.what, "measured": row.measured, "floor": row.floor,
                "ratio": row.ratio, "bar": row.bar, "met": row.verdict.name(),
                "numbers": row.numbers,
            })
        })
        .collect();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    Ok(std::fs::write(path, serde_json::to_string_pretty(&rows)?)?)
}

/// The rows that have a bar, the missed ones last, where they are seen.
pub fn bars(rows: &[Row]) -> String {
    [(Verdict::Met, "met"), (Verdict::Missed, "MISSED")]
        .into_iter()
        .flat_map(|(verdict, name)| {
            let found = rows.iter().filter(move |row| row.verdict == verdict);
            found.map(move |row| format!("{name}: {} {} ({})\n", row.what, row.bar, row.floor))
        })
        .collect()
}

/// The table that is kept with the code.
pub fn write_results(rows: &[Row], machine: &str, path: &Path) -> Outcome<()> {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let command = format!("cargo bench --bench scale -- {}", given.join(" "));
    let command = command.trim_end_matches(" -- ");
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output()?;
    let date = String::from_utf8_lossy(&date.stdout);
    let text = format!(
        "# Results\n\nOf `{command}` (`make bench` runs it last), {}, on\n{machine}.\n\n\
         A floor or peer was measured in the same run, in turns. A ratio is the median of the rounds' \
         ratios, with its bootstrap 95 % interval; a bar on it is met when the upper end meets it.\n\n{}\n",
        date.trim(),
        table(rows)
    );
    Ok(std::fs::write(path, text)?)
}

/// The machine that the figures hold for.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} × {model}, Linux {}, load at start {load}", kernel.trim())
}
