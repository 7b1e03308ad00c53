//! A running daemon's read-only answers, on a Unix socket that only root may use.
//!
//! In: published snapshots, GET requests. Out: JSON; the same values for offline commands;
//! the text of `/metrics`.
//! Never: a change of anything; a wait that the writer could feel.

mod client;
mod error;
mod query;
pub mod render;
mod route;
mod server;
mod socket;
mod stream;
pub mod views;

pub use client::{Answered, Client};
pub use error::{ClientError, Error};
pub(crate) use query::protocol_named;
pub use query::{TraceQuery, TraceQueryError};
pub use server::serve;
pub use socket::{Listener, bind};
