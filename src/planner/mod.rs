//! What this node must do for each service. PURE.

mod plan;

pub use plan::*;
