//! `vipd plan`: everything that this node does.

use super::Error;
use super::answers::From;
use super::output::{self, TextFormat};
use crate::admin::render::render_plan_view;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    from: From,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: TextFormat,
}

pub(super) fn run(flags: Flags) -> Result<(), Error> {
    let plan = flags.from.open()?.plan()?;
    match flags.output {
        TextFormat::Text => output::print(&render_plan_view(&plan)),
        TextFormat::Json => output::print_json(&plan),
        TextFormat::Yaml => output::print_yaml(&plan),
    }
}
