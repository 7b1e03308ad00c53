//! The little of netlink that vipd needs: messages in, messages out, one socket.
//!
//! In: attributes as bytes. Out: messages of one buffer; errors with the kernel's own words.
//! Never: knowledge of nf_tables or conntrack beyond their subsystem numbers.

mod message;
mod socket;

pub use message::{Attribute, Attributes, Buffer, Message, Messages, Nest};
pub use socket::{ExtendedError, Socket};

/// `linux/netfilter/nfnetlink.h`
pub const SUBSYS_CTNETLINK: u16 = 1;
pub const SUBSYS_NFTABLES: u16 = 10;
pub const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub const NFNL_MSG_BATCH_END: u16 = 0x11;

/// `linux/netlink.h`
pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_MULTI: u16 = 0x2;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_CAPPED: u16 = 0x100;
pub const NLM_F_ACK_TLVS: u16 = 0x200;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLMSG_OVERRUN: u16 = 4;
