//! The writer against a dataplane that fails on purpose: once nothing fails any more, all is right
//! again.

mod faults {
    pub mod bench;
    mod commits;
    mod edits;
    pub mod fake;
    mod flows;
    mod measured;
    mod running;
    mod schedules;
}
mod objects;

use faults::{bench, fake};
use objects::{Example, service};

/// TCP.
fn web() -> Example {
    service("web", 1).endpoints(&[1, 2])
}

/// UDP.
fn dns() -> Example {
    service("dns", 2).udp().port(53).endpoints(&[1, 2])
}
