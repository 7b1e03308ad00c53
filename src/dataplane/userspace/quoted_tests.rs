use super::quoted::rules;
use super::sets::{Set, node_element, untracked_element};
use crate::model::{Family, Protocol};
use crate::nft::Element;
use crate::nft::expr::{
    Comparison, Expr, Meta, NFPROTO_IPV4, NFPROTO_IPV6, PayloadBase, Reg, Rule,
};
use crate::planner::{FrontendAddress, FrontendKey};
use std::net::IpAddr;

/// What a packet must be looked up as to be untracked: in every set its key.
type Asked = Vec<(String, Vec<u8>)>;

/// As the kernel has them: numbers 1 to 4 are four registers of 4 bytes each, which are numbered from 8.
struct Registers([u8; 64]);

impl Registers {
    fn at(register: Reg) -> usize {
        4 * if register < 8 { 4 * (register as usize - 1) } else { register as usize - 8 }
    }

    fn load(&mut self, register: Reg, value: &[u8]) {
        let at = Self::at(register);
        self.0[at..at + value.len().next_multiple_of(4)].fill(0);
        self.0[at..at + value.len()].copy_from_slice(value);
    }

    fn of(&self, register: Reg, length: usize) -> &[u8] {
        &self.0[Self::at(register)..][..length]
    }
}

fn asked(rule: &Rule, family: Family, protocol: u8, icmp: &[u8]) -> Option<Asked> {
    let (mut registers, mut asked) = (Registers([0xee; 64]), Asked::new());
    for expr in &rule.0 {
        match expr {
            Expr::MetaLoad(Meta::Family, to) if family == Family::V4 => {
                registers.load(*to, &[NFPROTO_IPV4]);
            }
            Expr::MetaLoad(Meta::Family, to) => registers.load(*to, &[NFPROTO_IPV6]),
            Expr::MetaLoad(Meta::Protocol, to) => registers.load(*to, &[protocol]),
            Expr::Payload { base: PayloadBase::Transport, offset, length, to } => {
                let at = *offset as usize;
                registers.load(*to, icmp.get(at..at + *length as usize)?);
            }
            Expr::Mask { register, mask } => {
                let value = registers.of(*register, mask.len()).to_vec();
                let masked: Vec<u8> = value.iter().zip(mask).map(|(v, m)| v & m).collect();
                registers.load(*register, &masked);
            }
            Expr::Compare(Comparison::Equal, register, value) => {
                (registers.of(*register, value.len()) == value).then_some(())?;
            }
            Expr::Lookup { set, from, .. } => {
                let set = Set::ALL.into_iter().find(|one| one.name() == set).unwrap();
                let length = match set {
                    Set::Nodes(Family::V4) => 4,
                    Set::Nodes(Family::V6) => 16,
                    Set::UntrackedPorts(_) => 8,
                    Set::Untracked(Family::V4) => 12,
                    Set::Untracked(Family::V6) => 24,
                    _ => panic!("{set:?} has nothing to do with it"),
                };
                asked.push((set.name().to_owned(), registers.of(*from, length).to_vec()));
            }
            Expr::NoTrack | Expr::Verdict(_) => {}
            other => panic!("{other:?}"),
        }
    }
    Some(asked)
}

fn all_asked(family: Family, protocol: u8, icmp: &[u8]) -> Vec<Asked> {
    let rules = rules(Vec::new());
    rules.iter().filter_map(|rule| asked(rule, family, protocol, icmp)).collect()
}

/// The relay's answer from port 80 of an address: as a frontend, or as a node port.
fn looked_up(address: &str, protocol: Protocol) -> Vec<Asked> {
    let address: IpAddr = address.parse().unwrap();
    let (family, placed) = (Family::of(address), |(set, element): (Set, Element)| {
        (set.name().to_owned(), element.key.to_vec())
    });
    let element = |at| {
        let key = FrontendKey { at, protocol: Protocol::Udp, port: 80 };
        let (set, mut key) = placed(untracked_element(key).unwrap());
        let at = if key.len() == 8 { 0 } else { key.len() - 8 };
        key[at] = protocol as u8;
        (set, key)
    };
    vec![
        vec![element(FrontendAddress::Address(address))],
        vec![placed(node_element(address)), element(FrontendAddress::NodePort(family))],
    ]
}

const PORTS: [u8; 8] = [0, 80, 0x11, 0x5c, 0x05, 0x78, 0, 0];

fn error4(kind: [u8; 2], first: u8, fragment: [u8; 2], protocol: Protocol) -> Vec<u8> {
    let mut out = [&kind[..], &[0, 0, 0, 0, 0x05, 0x14]].concat();
    out.extend([first, 0, 0x05, 0x78, 0, 1, fragment[0], fragment[1], 63, protocol as u8, 0, 0]);
    out.extend([10, 96, 0, 10, 203, 0, 113, 2]);
    out.extend(PORTS);
    out
}

fn error6(kind: u8, next: u8, further: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0, 0, 0x05, 0x14, 0x60, 0, 0, 0, 0x05, 0x50, next, 63];
    for address in ["fd00:96::10", "2001:db8:113::2"] {
        let IpAddr::V6(v6) = address.parse().unwrap() else { panic!() };
        out.extend(v6.octets());
    }
    out.extend(further);
    out.extend(PORTS);
    out
}

#[test]
fn who_sent_what_is_quoted_is_looked_up() {
    const DF: [u8; 2] = [0x40, 0];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let icmp = error4([3, 4], 0x45, DF, protocol);
        assert_eq!(all_asked(Family::V4, 1, &icmp), looked_up("10.96.0.10", protocol));
    }
    let other = [
        error4([3, 3], 0x45, DF, Protocol::Udp),
        error4([11, 4], 0x45, DF, Protocol::Udp),
        error4([3, 4], 0x46, DF, Protocol::Udp),
        error4([3, 4], 0x45, [0x20, 1], Protocol::Udp),
        error4([3, 4], 0x45, DF, Protocol::Udp)[..28].to_vec(),
    ];
    for icmp in other {
        assert_eq!(all_asked(Family::V4, 1, &icmp), Vec::<Asked>::new(), "{icmp:?}");
    }
    let icmp = error4([3, 4], 0x45, DF, Protocol::Udp);
    assert_eq!(all_asked(Family::V4, 132, &icmp), Vec::<Asked>::new());
    assert_eq!(all_asked(Family::V6, 58, &icmp), Vec::<Asked>::new());
}

#[test]
fn of_fragments_the_first_has_the_ports() {
    let (udp, tcp) = (Protocol::Udp as u8, Protocol::Tcp as u8);
    let expected = looked_up("fd00:96::10", Protocol::Udp);
    let whole = all_asked(Family::V6, 58, &error6(2, udp, &[]));
    assert_eq!(whole, expected);
    let fragment = |next, offset: [u8; 2]| {
        let header = [next, 0, offset[0], offset[1], 0, 0, 0, 1];
        all_asked(Family::V6, 58, &error6(2, 44, &header))
    };
    // As a packet without fragments it has the protocol 44, which no element has.
    assert_eq!(fragment(udp, [0, 1])[2..], expected);
    assert_eq!(fragment(tcp, [0, 1])[2..], looked_up("fd00:96::10", Protocol::Tcp));
    assert_eq!(fragment(udp, [0x05, 0xa9]).len(), 2);
    assert_eq!(all_asked(Family::V6, 58, &error6(1, udp, &[])), Vec::<Asked>::new());
}
