//! `vipd config`: what `vipd run` with these flags would do, and who says so.

use super::Error;
use super::output;
use super::table::Columns;
use crate::config::{Effective, RunFlags};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    run: RunFlags,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

pub(super) fn run(flags: Flags) -> Result<(), Error> {
    let effective = flags.run.explain()?;
    match flags.output {
        Format::Table => output::print(&table(&effective)),
        Format::Json => output::print_json(&effective),
        Format::Yaml => output::print_yaml(&effective),
    }
}

fn table(effective: &Effective) -> String {
    let mut settings = Columns::new(&["NAME", "VALUE", "FROM"]);
    for setting in &effective.settings {
        let value = if setting.value.is_empty() { "<none>" } else { &setting.value };
        settings.row(&[setting.name, value, &setting.from.to_string()]);
    }
    let mut text = settings.text();
    if !effective.without_meaning.is_empty() {
        let mut void = Columns::new(&["WITHOUT A MEANING HERE", "WHY"]);
        for entry in &effective.without_meaning {
            void.row(&[&entry.what, &entry.why]);
        }
        text.push('\n');
        text.push_str(&void.text());
    }
    if !effective.warnings.is_empty() {
        text.push_str("\nWARNINGS\n");
        for warning in &effective.warnings {
            text.push_str(&format!("{}\n", output::escape(warning)));
        }
    }
    text
}
