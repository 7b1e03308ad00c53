//! A rolling update through the API, under load.

use crate::live;
use crate::rolling;
use crate::runner::Case;
use crate::support::runner::soak;

pub const CASES: &[Case] =
    &[("a rolling update of ten replicas: none of 500 connections a second fails", updates)];

fn updates() {
    live::with(|live| {
        live.start(&[]);
        rolling::none_fails(&live.w, if soak() { 1000 } else { 100 });
    });
}
