//! Rooms `conntrack` and `node`: judging by tables, removal and watching on a real kernel, with
//! `conntrack` and `ip` as witnesses.

mod departures;
mod judging;
mod kernel;
mod namespace;
mod node;
#[path = "../objects/mod.rs"]
mod objects;
mod plans;
mod resets;
mod stranded;
mod sysctls;
