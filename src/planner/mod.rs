//! What this node must do for each service. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod plan;

pub use plan::*;
