//! vipd: a Kubernetes service proxy for one node.
//!
//! ```text
//! sources ──Change──► store ──dirty keys──► planner ──PlanDelta──► dataplane ──► kernel
//! (edge)             (pure)                (pure)                (lower, apply)
//! ```
//!
//! Invariants:
//! 1. Pure rooms (`model`, `selectors`, `store`, `planner`, decoding, lowering) do no I/O and read
//!    no clock, randomness or environment.
//! 2. The same objects and node facts give the same plans, whatever the order of arrival.
//! 3. A dataplane is told what to do, never why: it sees plans, no Kubernetes object.
//! 4. Nothing is programmed before every source and the node have said that their first list is
//!    complete; nothing foreign is ever touched.
//! 5. A commit is atomic; after an error the next try reads back what the kernel holds.
//! 6. A resync goes over desired and observed, or leftovers live for ever.
//! 7. Targets before references on the way in, references before targets on the way out.
//! 8. One bad object costs only itself, and the reason can be asked for.
//! 9. One task writes; everyone else reads published snapshots.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod conntrack;
pub mod dataplane;
pub mod events;
pub mod handover;
pub mod health;
pub mod histogram;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod nft;
pub mod node;
pub mod planner;
pub mod selectors;
pub mod sources;
pub mod status;
pub mod store;
pub mod sync;
pub mod takeover;
