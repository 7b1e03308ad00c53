//! A real kernel for tests: namespaces, servers, clients, manifests and vipd itself.
//!
//! In: cases that read like stories. Out: what packets did.
//! Never: the host's own network; vipd's own code as a judge of vipd.

pub mod client;
pub mod clients;
pub mod directory;
pub mod flow;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod nft;
pub mod plan;
pub mod replies;
pub mod runner;
pub mod sandbox;
pub mod servers;
pub mod sniff;
pub mod topology;
pub mod trace;
pub mod vipd;
pub mod world;
