//! The kernel's connection tracking: flows to endpoints that are gone, and the settings.
//!
//! In: what changed in the plan, the operator's wishes. Out: entries deleted, exactly those, on
//! threads of this room's own; values of /proc set.
//! Never: an entry of another conntrack zone, or of no frontend of the plan.
//!
//! UDP entries go at once: UDP does not notice that an endpoint is gone, each packet renews the
//! entry and goes nowhere. TCP and SCTP are left to finish: a terminating endpoint may still be
//! serving them. TCP connections to an endpoint that is gone for good are reset where the operator
//! asks for it: a client that keeps writing would notice after a quarter of an hour.

mod cleaner;
mod departed;
mod netlink;
mod proc;
mod query;
mod resets;
mod stale;
mod sysctls;
mod worker;

pub use cleaner::{Cleaner, Options, Removals, Stats};
pub use departed::{Departures, Former, Resets};
pub use netlink::{Dump, Entry, Error, Table};
pub use proc::{Changed, Root, set_sysctls};
pub use query::{DeleteBy, Original, Phase, Query, Removal, plan_removals, queries};
pub use resets::ResetCount;
pub use stale::{Audit, Cause, Flow, Stale, Suspects, Verdict, judge, stale, stale_node_ports};
pub use sysctls::{Bound, Sysctl, Sysctls, Wanted};
