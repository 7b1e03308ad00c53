//! A packet, as nf_tables sees it at one hook.

use std::net::IpAddr;
use vipd::model::Protocol;
use vipd::planner::Target;

#[derive(Debug, Clone)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// None: the node's own.
    pub in_interface: Option<String>,
    /// What it was addressed to before a translation.
    pub original: Option<Target>,
    /// It carries this from hook to hook.
    pub priority: u32,
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl Packet {
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The network header as far as rules may look.
    pub fn network(&self) -> Vec<u8> {
        let mut header = vec![0xee; if self.is_v4() { 12 } else { 8 }];
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header
    }

    /// The same of the transport header; of TCP it opens a connection.
    pub fn transport(&self) -> Vec<u8> {
        const SYN: u8 = 0x02;
        let mut header = 40_000u16.to_be_bytes().to_vec();
        header.extend(self.port.to_be_bytes());
        if self.protocol == Protocol::Tcp {
            header.extend([0xee; 9]);
            header.push(SYN);
        }
        header
    }

    /// To another destination, once.
    pub fn translate(&mut self, target: Target) {
        self.original = Some(self.original());
        (self.destination, self.port) = (target.address, target.port);
    }

    /// The connection's first destination.
    pub fn original(&self) -> Target {
        self.original.unwrap_or(Target { address: self.destination, port: self.port })
    }

    pub fn original_address(&self) -> Vec<u8> {
        octets(self.original().address)
    }
}
