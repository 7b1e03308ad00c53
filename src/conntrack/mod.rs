//! The kernel's connection tracking: flows to endpoints that are gone, and the settings.
//!
//! In: what changed in the plan, the operator's wishes. Out: entries deleted, exactly those, on
//! threads of this room's own; values of /proc set.
//! Never: an entry of another conntrack zone, or of no frontend of the plan.
//!
//! TCP and SCTP are left to finish: they notice by themselves, and a terminating endpoint may
//! still be serving them. UDP does not notice: each packet renews the entry and goes nowhere.

mod cleaner;
mod netlink;
mod proc;
mod query;
mod stale;
mod sysctls;
mod worker;

pub use cleaner::{Cleaner, Options, Stats};
pub use netlink::{Dump, Entry, Error, Table};
pub use proc::{Changed, Root, set_sysctls};
pub use query::{DeleteBy, Destination, Query, Removal, plan_removals};
pub use stale::{Audit, Flow, Suspects, Verdict, judge, stale};
pub use sysctls::{Bound, Sysctl, Sysctls, Wanted};
