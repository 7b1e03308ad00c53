//! IPVS services as /proc/net/ip_vs lists them. PURE.
//!
//! In: the text of that file. Out: services, and the words that delete one with ipvsadm.
//! Never: a guess at whose a service is, but by its address.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::model::Protocol;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address that IPVS balances, or a firewall mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtualService {
    Address { protocol: Protocol, at: SocketAddr },
    Mark(u32),
}

/// The services of a listing (`net/netfilter/ipvs/ip_vs_ctl.c`): addresses and ports in
/// hexadecimal, IPv6 in brackets. Lines of real servers and headings have another first word.
pub fn virtual_services(text: &str) -> Vec<VirtualService> {
    text.lines().filter_map(virtual_service).collect()
}

fn virtual_service(line: &str) -> Option<VirtualService> {
    let mut words = line.split_whitespace();
    let protocol = match (words.next()?, words.next()?) {
        ("FWM", mark) => return Some(VirtualService::Mark(u32::from_str_radix(mark, 16).ok()?)),
        (protocol, at) => Protocol::ALL.into_iter().find(|p| p.name() == protocol).zip(Some(at)),
    };
    let (protocol, at) = protocol?;
    let (address, port) = at.rsplit_once(':')?;
    let address = match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(six) => IpAddr::V6(six.parse().ok()?),
        None => IpAddr::V4(Ipv4Addr::from_bits(u32::from_str_radix(address, 16).ok()?)),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(VirtualService::Address { protocol, at: SocketAddr::new(address, port) })
}

/// Those at one of these addresses.
pub fn at_addresses(
    services: &[VirtualService],
    addresses: &BTreeSet<IpAddr>,
) -> Vec<VirtualService> {
    let ours = |service: &&VirtualService| match service {
        VirtualService::Address { at, .. } => addresses.contains(&at.ip()),
        VirtualService::Mark(_) => false,
    };
    services.iter().filter(ours).copied().collect()
}

impl VirtualService {
    /// What ipvsadm is told.
    pub fn deletion(&self) -> [String; 3] {
        let (option, value) = match self {
            VirtualService::Address { protocol, at } => {
                let option = match protocol {
                    Protocol::Tcp => "--tcp-service",
                    Protocol::Udp => "--udp-service",
                    Protocol::Sctp => "--sctp-service",
                };
                (option, at.to_string())
            }
            VirtualService::Mark(mark) => ("--fwmark-service", mark.to_string()),
        };
        ["--delete-service".to_owned(), option.to_owned(), value]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0AFE0029:0050 rr 
  -> 0AB40001:1F90      Masq    1      2          0         
  -> 0AB40101:1F90      Masq    1      0          0         
UDP  0AFE000A:0035 rr  persistent 10800 FFFFFFFF
TCP  C0A80002:7531 rr 
SCTP [fd00:0010:0254:0000:0000:0000:0000:0029]:0050 wrr 
  -> [fd00:0010:0180:0000:0000:0000:0000:0001]:1F90      Masq    1      0          0         
FWM  0000002A wlc 
";

    #[test]
    fn services_are_read_and_told_apart_by_address() {
        let all = virtual_services(LISTING);
        let words: Vec<_> = all.iter().map(|service| service.deletion()[1..].join(" ")).collect();
        let expected = [
            "--tcp-service 10.254.0.41:80",
            "--udp-service 10.254.0.10:53",
            "--tcp-service 192.168.0.2:30001",
            "--sctp-service [fd00:10:254::29]:80",
            "--fwmark-service 42",
        ];
        assert_eq!(words, expected);
        let held = ["10.254.0.41", "fd00:10:254::29"].map(|address| address.parse().unwrap());
        let ours = at_addresses(&all, &BTreeSet::from(held));
        assert_eq!(ours, [all[0], all[3]]);
    }

    #[test]
    fn lines_of_another_form_are_no_services() {
        for line in
            ["", "TCP", "TCP  0AFE0029", "TCP  XYZ:0050 rr", "TCP  0AFE0029:10050 rr", "FWM"]
        {
            assert_eq!(virtual_services(line), [], "{line}");
        }
        assert_eq!(virtual_services(LISTING.split_once("TCP").unwrap().0), []);
    }
}
