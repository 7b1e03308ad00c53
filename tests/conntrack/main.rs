//! Rooms `conntrack` and `node`: judging by tables, removal and watching on a real kernel, with
//! `conntrack` and `ip` as witnesses.

mod judging;
mod kernel;
mod namespace;
mod node;
mod plans;
mod sysctls;
