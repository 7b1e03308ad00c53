//! A rolling update through the API, under load.

use crate::live;
use crate::rolling;
use crate::runner::Case;
use crate::support::runner::soak;

pub const CASES: &[Case] = &[
    ("a rolling update of ten replicas: none of 500 connections a second fails", updates),
    ("the same with half a second between two writes is seen to fail", slow),
];

fn updates() {
    live::with(|live| {
        live.start(&[]);
        rolling::none_fails(&live.w, if soak() { 1000 } else { 100 });
    });
}

fn slow() {
    live::with(|live| {
        live.start(&[("--iptables-min-sync-period", "500ms")]);
        rolling::some_fail(&live.w, rolling::Refuses::AfterGrace);
    });
}
