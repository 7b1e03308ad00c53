//! Elements of sets and maps: their keys, what they map to, and how they are written and read.

use super::expr::{Verdict, put_verdict, read_verdict};
use crate::model::Protocol;
use crate::netlink::{Attributes, Buffer};
use smallvec::SmallVec;
use std::net::IpAddr;

/// Bytes of a key or of a value, as the registers hold them.
pub type Bytes = SmallVec<[u8; 24]>;

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    None,
    Value(Bytes),
    /// A value that ends by itself (a pin).
    Timed {
        value: Bytes,
        timeout_ms: u64,
        expires_ms: u64,
    },
    Verdict(Verdict),
    /// None, and the element ends by itself.
    Expiring {
        timeout_ms: u64,
    },
    /// A verdict that vipd never writes.
    Foreign,
    /// No data, and the flag that the interval begun before ends here.
    IntervalEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// Empty for the element that answers for every key that is not there; never vipd's.
    pub key: Bytes,
    pub data: Data,
}

pub fn put_address(out: &mut Bytes, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Network byte order, padded to a register's 4 bytes.
pub fn put_port(out: &mut Bytes, port: u16) {
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

pub fn frontend_key(address: IpAddr, protocol: Protocol, port: u16) -> Bytes {
    let mut key = Bytes::new();
    put_address(&mut key, address);
    key.extend_from_slice(&[protocol as u8, 0, 0, 0]);
    put_port(&mut key, port);
    key
}

/// What `frontend_key` wrote.
pub fn read_frontend_key(key: &[u8]) -> Option<(IpAddr, Protocol, u16)> {
    let (address, rest) = read_address(key, key.len().checked_sub(8)?)?;
    let protocol = Protocol::from_number(rest[0])?;
    Some((address, protocol, u16::from_be_bytes([rest[4], rest[5]])))
}

pub fn read_address(bytes: &[u8], length: usize) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(length)?;
    let address = match length {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some((address, rest))
}

pub fn address_element(address: IpAddr) -> Element {
    let mut key = Bytes::new();
    put_address(&mut key, address);
    Element { key, data: Data::None }
}

pub fn node_port_key(protocol: Protocol, port: u16) -> Bytes {
    let mut key = Bytes::from_slice(&[protocol as u8, 0, 0, 0]);
    put_port(&mut key, port);
    key
}

/// What `node_port_key` wrote.
pub fn read_node_port_key(key: &[u8]) -> Option<(Protocol, u16)> {
    let &[protocol, _, _, _, high, low, _, _] = key else { return None };
    Some((Protocol::from_number(protocol)?, u16::from_be_bytes([high, low])))
}

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_SET_ELEM_CATCHALL: u32 = 2;

/// Whether an element is written with what it maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    Data,
    /// For deletions and look-ups; a wrong datum would make a deletion fail.
    KeyOnly,
}

impl Element {
    pub fn put(&self, out: &mut Buffer, with: With) {
        let element = out.nest(NFTA_LIST_ELEM);
        if self.data == Data::IntervalEnd {
            out.attr_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        if self.key.is_empty() {
            out.attr_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_CATCHALL);
        } else {
            let key = out.nest(NFTA_SET_ELEM_KEY);
            out.attr(NFTA_DATA_VALUE, &self.key);
            out.close(key);
        }
        if with == With::Data {
            match &self.data {
                Data::None | Data::IntervalEnd | Data::Foreign => {}
                Data::Expiring { timeout_ms } => {
                    out.attr_u64(NFTA_SET_ELEM_TIMEOUT, *timeout_ms);
                    // One that is there begins anew by it (Linux 6.12).
                    out.attr_u64(NFTA_SET_ELEM_EXPIRATION, *timeout_ms);
                }
                Data::Value(bytes) => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    out.attr(NFTA_DATA_VALUE, bytes);
                    out.close(data);
                }
                Data::Timed { value, timeout_ms, expires_ms } => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    out.attr(NFTA_DATA_VALUE, value);
                    out.close(data);
                    out.attr_u64(NFTA_SET_ELEM_TIMEOUT, *timeout_ms);
                    out.attr_u64(NFTA_SET_ELEM_EXPIRATION, *expires_ms);
                }
                Data::Verdict(verdict) => {
                    let data = out.nest(NFTA_SET_ELEM_DATA);
                    put_verdict(out, verdict);
                    out.close(data);
                }
            }
        }
        out.close(element);
    }

    /// One element of a list that the kernel sent.
    pub fn read(attributes: Attributes<'_>) -> Option<Self> {
        let flags = attributes.find(NFTA_SET_ELEM_FLAGS).and_then(|a| a.u32()).unwrap_or(0);
        let key = match attributes.find(NFTA_SET_ELEM_KEY) {
            Some(key) => key.nested().find(NFTA_DATA_VALUE)?.value,
            None if flags & NFT_SET_ELEM_CATCHALL != 0 => &[],
            None => return None,
        };
        let time = |kind| attributes.find(kind).and_then(|a| a.u64());
        let data = match attributes.find(NFTA_SET_ELEM_DATA) {
            Some(data) => match data.nested().find(NFTA_DATA_VALUE) {
                Some(value) => {
                    let value = Bytes::from_slice(value.value);
                    match (time(NFTA_SET_ELEM_TIMEOUT), time(NFTA_SET_ELEM_EXPIRATION)) {
                        (Some(timeout_ms), Some(expires_ms)) => {
                            Data::Timed { value, timeout_ms, expires_ms }
                        }
                        _ => Data::Value(value),
                    }
                }
                None => read_verdict(data.nested()).map_or(Data::Foreign, Data::Verdict),
            },
            None if flags & NFT_SET_ELEM_INTERVAL_END != 0 => Data::IntervalEnd,
            None => match time(NFTA_SET_ELEM_TIMEOUT) {
                Some(timeout_ms) => Data::Expiring { timeout_ms },
                None => Data::None,
            },
        };
        Some(Self { key: Bytes::from_slice(key), data })
    }
}
