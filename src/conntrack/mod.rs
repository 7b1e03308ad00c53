//! Removes the UDP conntrack entries that would keep sending packets to endpoints that are gone.
//!
//! In: what changed in the plan. Out: entries deleted, exactly those, on a thread of its own.
//! Never: an entry that is not UDP, of another conntrack zone, or of no frontend of the plan.
//!
//! TCP and SCTP are left to finish: they notice by themselves, and a terminating endpoint may
//! still be serving them. UDP does not notice: each packet renews the entry and goes nowhere.

mod cleaner;
mod netlink;
mod query;
mod stale;
mod worker;

pub use cleaner::{Cleaner, Options, Stats};
pub use netlink::{Dump, Entry, Error, Table};
pub use query::{DeleteBy, Destination, Query, Removal, plan_removals};
pub use stale::{Audit, Flow, Suspects, Verdict, judge, stale};
