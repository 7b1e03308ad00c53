//! The questions that the harness answers, one file each.
//!
//! In: [`Effort`]. Out: [`Row`](crate::report::Row)s.
//! Never: a figure from another run.

pub mod change;
pub mod connect;
pub mod event;
pub mod load;
pub mod memory;
pub mod repair;
pub mod special;
pub mod start;
