//! nf_tables' evaluation of rules, after `nf_tables_core.c`: registers, expressions, verdicts.
//!
//! In: a table, a packet, what `numgen random` answers. Out: what becomes of the packet.

use super::packet::Packet;
use super::relay::Relay;
use super::table::Table;
use std::net::IpAddr;
use vipd::dataplane::nftables::expr::{
    Comparison, Ct, DynamicSet, Expr, Find, Meta, NFPROTO_IPV4, NFPROTO_IPV6, PayloadBase, Reg,
    Rule, SocketIs, Verdict,
};
use vipd::dataplane::nftables::hash::jhash_scaled;
use vipd::dataplane::nftables::layout::Hook;
use vipd::dataplane::nftables::set::{Bytes, Data, Set};
use vipd::model::Protocol;
use vipd::planner::Target;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No rule decided otherwise.
    Accept,
    Drop,
    Reject,
    Dnat(Target),
    /// Translated to where it goes, or comes from, anyway.
    Stay,
    Masquerade,
}

/// `enum nf_inet_hooks`
pub const PRE_ROUTING: u32 = 0;
pub const LOCAL_IN: u32 = 1;
pub const FORWARD: u32 = 2;
pub const LOCAL_OUT: u32 = 3;
pub const POST_ROUTING: u32 = 4;

pub struct Machine<'a> {
    pub table: &'a mut Table,
    pub packet: Packet,
    /// Addresses of the node.
    pub own: &'a dyn Fn(IpAddr) -> bool,
    /// Answer of `numgen random`, and how many there could be.
    pub random: u32,
    pub modulus: u32,
    registers: [Option<u8>; 64],
    /// What leads to the relay, where one runs.
    pub relay: Option<&'a Relay>,
    /// Rules of the relay's table are run.
    in_relay: bool,
    /// The relay's socket has the packet.
    pub taken: bool,
    tracked: bool,
    /// It leaves by the loopback interface.
    pub by_loopback: bool,
    /// The connection's destination is decided: no chain of nat is asked again.
    pub settled: bool,
}

/// How a rule goes on.
enum Flow {
    Next,
    /// The rule does not apply.
    Break,
    Jump(String),
    Goto(String),
    Return,
    End(End),
}

impl<'a> Machine<'a> {
    pub fn new(table: &'a mut Table, packet: Packet, own: &'a dyn Fn(IpAddr) -> bool) -> Self {
        Self {
            table,
            packet,
            own,
            random: 0,
            modulus: 1,
            registers: [None; 64],
            relay: None,
            in_relay: false,
            taken: false,
            tracked: true,
            by_loopback: false,
            settled: false,
        }
    }

    /// What the base chains of a hook make of the packet: in the order of their priorities, and
    /// once it is translated those of nat no more.
    pub fn hook(&mut self, number: u32) -> End {
        let mut translated = End::Accept;
        let own = self.table.hooked(number).into_iter().map(|(name, hook)| (hook, Err(name)));
        let relays = self.relay.into_iter().flat_map(|relay| relay.hooked(number));
        let relays = relays.map(|(hook, rules)| (hook, Ok(rules)));
        let mut chains: Vec<(Hook, Result<&[Rule], String>)> = own.chain(relays).collect();
        chains.sort_by_key(|(hook, _)| hook.priority);
        for (hook, chain) in chains {
            let nat = hook.kind == "nat";
            if nat && (translated != End::Accept || !self.tracked || self.settled) {
                continue;
            }
            let end = match chain {
                Ok(rules) => self.run_of_relay(rules),
                Err(name) => self.run(&name),
            };
            match end {
                End::Accept => {}
                End::Stay => translated = End::Stay,
                end @ (End::Drop | End::Reject) => return end,
                End::Dnat(target) => {
                    self.packet.translate(target);
                    translated = End::Dnat(target);
                }
                End::Masquerade => translated = End::Masquerade,
            }
        }
        translated
    }

    /// What a base chain says.
    pub fn run(&mut self, chain: &str) -> End {
        self.chain(chain, 0).unwrap_or(End::Accept)
    }

    /// The relay's chains lead on, and never back.
    fn run_of_relay(&mut self, mut rules: &'a [Rule]) -> End {
        self.in_relay = true;
        let end = loop {
            let mut flows = rules.iter().map(|rule| self.rule(rule));
            let ends = |flow: &Flow| !matches!(flow, Flow::Next | Flow::Break);
            match flows.find(ends) {
                None => break End::Accept,
                Some(Flow::End(end)) => break end,
                Some(Flow::Goto(chain)) => {
                    rules = self.relay.and_then(|relay| relay.chain(&chain)).expect("a chain");
                }
                Some(_) => panic!("not of the relay's table"),
            }
        };
        self.in_relay = false;
        end
    }

    fn chain(&mut self, name: &str, depth: usize) -> Option<End> {
        assert!(depth < 16, "NFT_JUMP_STACK_SIZE");
        let rules = self.table.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for rule in rules.rules.clone() {
            match self.rule(&rule) {
                Flow::Next | Flow::Break => {}
                Flow::Jump(chain) => {
                    if let Some(end) = self.chain(&chain, depth + 1) {
                        return Some(end);
                    }
                }
                // Its end is the end of this chain.
                Flow::Goto(chain) => return self.chain(&chain, depth),
                Flow::Return => return None,
                Flow::End(end) => return Some(end),
            }
        }
        None
    }

    /// The kernel refuses rules that read what they have not written, hence no registers from the
    /// rule before.
    fn rule(&mut self, rule: &Rule) -> Flow {
        self.registers = [None; 64];
        for expr in &rule.0 {
            match self.expr(expr) {
                Flow::Next => {}
                other => return other,
            }
        }
        Flow::Next
    }

    fn at(register: Reg) -> usize {
        match register {
            1..=4 => (register as usize - 1) * 16,
            8..=23 => (register as usize - 8) * 4,
            other => panic!("no data register: {other}"),
        }
    }

    fn read(&self, register: Reg, length: usize) -> Vec<u8> {
        let at = Self::at(register);
        let bytes = self.registers[at..at + length].iter();
        bytes.map(|byte| byte.expect("a rule reads only what it has written")).collect()
    }

    /// Padded to whole 4-byte registers.
    fn write(&mut self, register: Reg, bytes: &[u8]) {
        let at = Self::at(register);
        for (offset, slot) in
            self.registers[at..].iter_mut().take(bytes.len().next_multiple_of(4)).enumerate()
        {
            *slot = Some(bytes.get(offset).copied().unwrap_or(0));
        }
    }

    fn word(&self, register: Reg) -> u32 {
        u32::from_ne_bytes(self.read(register, 4).try_into().expect("four bytes"))
    }

    fn expr(&mut self, expr: &Expr) -> Flow {
        match expr {
            Expr::MetaLoad(key, to) => self.meta(*key, *to),
            Expr::MetaSet(Meta::Priority, from) => self.packet.priority = self.word(*from),
            Expr::MetaSet(other, _) => panic!("{other:?} cannot be set"),
            Expr::CtLoad(key, to) => return self.conntrack(*key, *to),
            Expr::Payload { base, offset, length, to } => {
                let header = match base {
                    PayloadBase::Network => self.packet.network(),
                    PayloadBase::Transport => self.packet.transport(),
                };
                let (offset, length) = (*offset as usize, *length as usize);
                self.write(*to, &header[offset..offset + length]);
            }
            Expr::Compare(comparison, register, value) => {
                let equal = self.read(*register, value.len()) == *value;
                if equal != (*comparison == Comparison::Equal) {
                    return Flow::Break;
                }
            }
            Expr::Mask { register, mask } => {
                let value = self.read(*register, mask.len());
                let masked: Vec<u8> = value.iter().zip(mask).map(|(v, m)| v & m).collect();
                self.write(*register, &masked);
            }
            Expr::Lookup { set, from, find } => return self.lookup(set, *from, *find),
            Expr::ImmediateValue(to, value) => self.write(*to, value),
            Expr::Verdict(verdict) => return flow(verdict),
            Expr::Random { to, modulus, offset } => {
                self.modulus = *modulus;
                self.write(*to, &(offset + self.random % modulus).to_ne_bytes());
            }
            Expr::Hash { from, length, to } => {
                let hash = jhash_scaled(&self.read(*from, *length as usize));
                self.write(*to, &hash.to_ne_bytes());
            }
            Expr::Dynamic { op, set, key, data, .. } => {
                let set = Set::by_name(set).expect("a set of the table");
                let length = match set {
                    Set::Affinity(_) => 8,
                    other => panic!("{other:?} is not written by packets"),
                };
                let key = (Bytes::from_vec(self.read(*key, length)), false);
                let value = Bytes::from_vec(self.read(*data, 4));
                let elements = self.table.sets.get_mut(&set).expect("all sets are there");
                match op {
                    DynamicSet::Delete => drop(elements.remove(&key)),
                    // An update keeps the value of what is there.
                    DynamicSet::Update => drop(elements.entry(key).or_insert(Data::Value(value))),
                }
            }
            Expr::Dnat { family, address, port } => {
                let wanted = if self.packet.is_v4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
                assert_eq!(*family, wanted, "a packet is translated within its family");
                let address = match wanted {
                    NFPROTO_IPV4 => <[u8; 4]>::try_from(self.read(*address, 4)).map(IpAddr::from),
                    _ => <[u8; 16]>::try_from(self.read(*address, 16)).map(IpAddr::from),
                };
                let Some(port) = port else {
                    let address = address.expect("as many bytes as asked for");
                    assert_eq!((address, self.in_relay), (self.packet.destination, true));
                    return Flow::End(End::Stay);
                };
                let port = self.read(*port, 2);
                return Flow::End(End::Dnat(Target {
                    address: address.expect("as many bytes as asked for"),
                    port: u16::from_be_bytes([port[0], port[1]]),
                }));
            }
            Expr::Snat { address, .. } => {
                let source = match self.packet.source {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                assert_eq!((self.read(*address, source.len()), self.in_relay), (source, true));
                return Flow::End(End::Stay);
            }
            Expr::Socket { .. } if !self.taken => return Flow::Break,
            Expr::Socket { is, to } => self.write(*to, &[u8::from(*is == SocketIs::Transparent)]),
            Expr::Tproxy { .. } | Expr::NoTrack if !self.in_relay => {
                panic!("only in the relay's own table")
            }
            Expr::Tproxy { .. } => self.taken = true,
            Expr::NoTrack => self.tracked = false,
            Expr::SourceType { to } => {
                let (unicast, local) = (1u32, 2u32);
                let kind = if (self.own)(self.packet.source) { local } else { unicast };
                self.write(*to, &kind.to_ne_bytes());
            }
            Expr::MasqueradeRandom => return Flow::End(End::Masquerade),
            Expr::RejectWithReset => {
                assert_eq!(self.packet.protocol, Protocol::Tcp, "others have no reset");
                return Flow::End(End::Reject);
            }
            Expr::RejectWithUnreachable => return Flow::End(End::Reject),
            Expr::Counter => {}
        }
        Flow::Next
    }

    fn meta(&mut self, key: Meta, to: Reg) {
        let name = self.packet.in_interface.clone();
        match key {
            Meta::Priority => self.write(to, &self.packet.priority.to_ne_bytes()),
            Meta::OutputIndex => {
                assert!(self.in_relay, "only in the relay's own table");
                let (loopback, another) = (1u32, 2u32);
                let index = if self.by_loopback { loopback } else { another };
                self.write(to, &index.to_ne_bytes());
            }
            Meta::InputKind => panic!("only where packets from bridges pass the hooks too early"),
            Meta::InputIndex => {
                let (none, loopback, another) = (0u32, 1u32, 2u32);
                let index = match name.as_deref() {
                    None => none,
                    Some("lo") => loopback,
                    Some(_) => another,
                };
                self.write(to, &index.to_ne_bytes());
            }
            Meta::InputName => {
                let mut name = name.unwrap_or_default().into_bytes();
                name.resize(16, 0);
                self.write(to, &name);
            }
            Meta::Family => {
                self.write(to, &[if self.packet.is_v4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 }]);
            }
            Meta::Protocol => self.write(to, &[self.packet.protocol as u8]),
        }
    }

    fn conntrack(&mut self, key: Ct, to: Reg) -> Flow {
        const NEW: u32 = 8;
        const UNTRACKED: u32 = 1 << 6;
        const CONFIRMED: u32 = 1 << 3;
        const DST_NAT: u32 = 1 << 5;
        match key {
            Ct::State => {
                let state = if self.tracked { NEW } else { UNTRACKED };
                self.write(to, &state.to_ne_bytes());
            }
            _ if !self.tracked => return Flow::Break,
            // The packet opens its connection.
            Ct::Direction => self.write(to, &[0]),
            Ct::Status => {
                // What has left the node once is known; what came from elsewhere is not yet.
                let confirmed = if self.settled { CONFIRMED } else { 0 };
                let translated = if self.packet.original.is_some() { DST_NAT } else { 0 };
                let status = confirmed | translated;
                self.write(to, &status.to_ne_bytes());
            }
            Ct::OriginalPort => self.write(to, &self.packet.original().port.to_be_bytes()),
            Ct::OriginalAddress4 if !self.packet.is_v4() => return Flow::Break,
            Ct::OriginalAddress6 if self.packet.is_v4() => return Flow::Break,
            Ct::OriginalAddress4 | Ct::OriginalAddress6 => {
                self.write(to, &self.packet.original_address());
            }
        }
        Flow::Next
    }

    fn lookup(&mut self, set: &str, from: Reg, find: Find) -> Flow {
        let absent = if find == Find::Absent { Flow::Next } else { Flow::Break };
        if let Some(relay) = self.relay.filter(|_| self.in_relay) {
            let has = relay.has(set, |length| self.read(from, length));
            return if has && find == Find::Present { Flow::Next } else { absent };
        }
        let set = Set::by_name(set).expect("a set of the table");
        let elements = &self.table.sets[&set];
        let Some((longest, _)) = elements.keys().next() else { return absent };
        let key = Bytes::from_vec(self.read(from, longest.len()));
        let found = match set {
            // An end comes before a begin at the same place.
            Set::Ranges(_) => elements
                .range(..=(key, true))
                .max_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(b.1.cmp(&a.1)))
                .filter(|(_, data)| **data != Data::IntervalEnd)
                .map(|(_, data)| data),
            _ => elements.get(&(key, false)),
        };
        match (found.cloned(), find) {
            (None, _) => absent,
            (Some(Data::None), Find::Present) => Flow::Next,
            (Some(Data::None), Find::Absent) => Flow::Break,
            (Some(Data::Verdict(verdict)), Find::Data(0)) => flow(&verdict),
            (Some(Data::Value(value)), Find::Data(to)) if to > 0 => {
                self.write(to, &value);
                Flow::Next
            }
            (Some(other), find) => panic!("{set:?} holds {other:?} for {find:?}"),
        }
    }
}

fn flow(verdict: &Verdict) -> Flow {
    match verdict {
        Verdict::Accept => Flow::End(End::Accept),
        Verdict::Drop => Flow::End(End::Drop),
        Verdict::Return => Flow::Return,
        Verdict::Jump(chain) => Flow::Jump(chain.to_string()),
        Verdict::Goto(chain) => Flow::Goto(chain.to_string()),
    }
}
