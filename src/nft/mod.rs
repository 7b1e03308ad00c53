//! The language of nf_tables, for every table that vipd owns.
//!
//! In: expressions, rules, chains, sets, elements, as values. Out: the attributes of netlink messages;
//! elements and verdicts that the kernel sent.
//! Never: a socket; which tables, chains and sets there are.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod chain;
mod element;
pub mod expr;
mod kind;
pub mod words;
pub mod write;

pub use chain::{ChainDefinition, Hook};
pub use element::{
    Bytes, Data, Element, With, address_element, frontend_key, node_port_key, put_address,
    put_port, read_address, read_frontend_key, read_node_port_key,
};
pub use kind::{Definition, Part, frontend_parts};
