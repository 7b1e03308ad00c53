//! `vipd metrics`: what a running daemon counts.

use super::answers::ask_metrics;
use super::{Error, output};
use crate::config::SocketFlag;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    socket: SocketFlag,
}

pub(super) fn run(flags: &Flags) -> Result<(), Error> {
    output::print(&ask_metrics(&flags.socket)?)
}
