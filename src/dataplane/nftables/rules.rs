//! The rules, written as small steps that mirror nft's language. PURE.

use super::expr::{Comparison, Ct, DynamicSet, Expr, Find, Meta, Rule, SocketIs, Verdict};
use super::set::{CLASS_MASK, NO_TOKEN, Set, first_slot};
use crate::model::{Family, Protocol};
use crate::nft::words::{
    destination, destination_port, frontend, is_family, is_protocol, nfproto, opens_nothing,
    registers, source, too_big,
};
use crate::planner::Scope;
use ipnet::IpNet;
use std::borrow::Cow;

pub type Chain = Cow<'static, str>;

fn lookup(set: Set, find: Find) -> Expr {
    Expr::Lookup { set: set.name().into(), from: 1, find }
}

/// Loads an address, or as much of it as tells, and compares it with a network. Nothing for the
/// network of all addresses, which nft has no word for.
fn compare_network(load: Expr, comparison: Comparison, net: IpNet) -> Vec<Expr> {
    let Expr::Payload { base, offset, length, to } = load else { return Vec::new() };
    let (address, mask): (Vec<u8>, Vec<u8>) = match net {
        IpNet::V4(v4) => (v4.network().octets().to_vec(), v4.netmask().octets().to_vec()),
        IpNet::V6(v6) => (v6.network().octets().to_vec(), v6.netmask().octets().to_vec()),
    };
    let whole = usize::from(net.prefix_len() / 8);
    match net.prefix_len() {
        0 => Vec::new(),
        // As nft does it: the first bytes instead of a mask.
        bits if bits.is_multiple_of(8) => vec![
            Expr::Payload { base, offset, length: whole as u32, to },
            Expr::Compare(comparison, to, address[..whole].to_vec()),
        ],
        _ => vec![
            Expr::Payload { base, offset, length, to },
            Expr::Mask { register: to, mask },
            Expr::Compare(comparison, to, address),
        ],
    }
}

pub fn goto(chain: Chain) -> Rule {
    Rule(vec![Expr::Verdict(Verdict::Goto(chain))])
}

pub fn drop() -> Rule {
    Rule(vec![Expr::Verdict(Verdict::Drop)])
}

/// `meta nfproto FAMILY goto chain`
pub fn if_family(family: Family, then: Chain) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.push(Expr::Verdict(Verdict::Goto(then)));
    Rule(rule)
}

/// `ip daddr NET goto chain`
pub fn destination_within(net: IpNet, then: Chain) -> Rule {
    to_network(net, Comparison::Equal, Verdict::Goto(then))
}

/// `ip daddr != NET accept`
pub fn accept_unless_to(net: IpNet) -> Rule {
    to_network(net, Comparison::NotEqual, Verdict::Accept)
}

/// `ip daddr != NET goto chain`
pub fn leave_unless_to(net: IpNet, then: Chain) -> Rule {
    to_network(net, Comparison::NotEqual, Verdict::Goto(then))
}

fn to_network(net: IpNet, comparison: Comparison, verdict: Verdict) -> Rule {
    let family = Family::of(net.addr());
    let mut rule = is_family(family).to_vec();
    rule.extend(compare_network(destination(family, 1), comparison, net));
    rule.push(Expr::Verdict(verdict));
    Rule(rule)
}

/// `ip daddr . meta l4proto . th dport map @services`, into the priority.
fn service_lookup(family: Family) -> Vec<Expr> {
    let mut rule = is_family(family).to_vec();
    rule.extend(frontend(family, registers(family)));
    rule.extend([lookup(Set::Services(family), Find::Data(1)), Expr::MetaSet(Meta::Priority, 1)]);
    rule
}

/// `ip daddr . meta l4proto . th dport @closed counter drop`
pub fn drop_closed_counted(family: Family) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend(frontend(family, registers(family)));
    rule.extend([lookup(Set::Closed(family), Find::Present), Expr::Counter]);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `meta priority set ip daddr . meta l4proto . th dport map @services goto chain`
pub fn find_service(family: Family, then: Chain) -> Rule {
    let mut rule = service_lookup(family);
    rule.push(Expr::Verdict(Verdict::Goto(then)));
    Rule(rule)
}

/// `meta priority set ip daddr . meta l4proto . th dport map @services
/// meta priority & 0:fff vmap @classes`
pub fn find_class(family: Family) -> Rule {
    let mut rule = service_lookup(family);
    rule.extend(class_lookup(Set::Classes));
    Rule(rule)
}

/// `ip daddr @nodes meta priority set meta l4proto . th dport map @nodeports`, into the priority.
fn node_port_lookup(family: Family) -> Vec<Expr> {
    let mut rule = node_port(family);
    rule.extend([lookup(Set::NodePorts(family), Find::Data(1)), Expr::MetaSet(Meta::Priority, 1)]);
    rule
}

/// `ip daddr @nodes meta l4proto . th dport`: what a look-up of node ports looks for.
fn node_port(family: Family) -> Vec<Expr> {
    let mut rule = is_family(family).to_vec();
    rule.extend([
        destination(family, 1),
        lookup(Set::Nodes(family), Find::Present),
        Expr::MetaLoad(Meta::Protocol, 1),
        destination_port(9),
    ]);
    rule
}

/// `ip daddr @nodes meta l4proto . th dport @closedports counter drop`
pub fn drop_closed_port_counted(family: Family) -> Rule {
    let mut rule = node_port(family);
    rule.extend([lookup(Set::ClosedPorts(family), Find::Present), Expr::Counter]);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `ip daddr @nodes meta priority set meta l4proto . th dport map @nodeports
/// meta priority & 0:fff vmap @classes`
pub fn find_node_port_class(family: Family) -> Rule {
    let mut rule = node_port_lookup(family);
    rule.extend(class_lookup(Set::Classes));
    Rule(rule)
}

/// `ip daddr @nodes meta priority set meta l4proto . th dport map @nodeports goto chain`
pub fn find_node_port(family: Family, then: Chain) -> Rule {
    let mut rule = node_port_lookup(family);
    rule.push(Expr::Verdict(Verdict::Goto(then)));
    Rule(rule)
}

/// `ip daddr @nodes meta priority set meta l4proto . th dport map @nodeports counter drop`
pub fn drop_node_port_counted(family: Family) -> Rule {
    let mut rule = node_port_lookup(family);
    rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    Rule(rule)
}

/// `meta priority set ip daddr . meta l4proto . th dport map @services counter drop`
pub fn drop_service_counted(family: Family) -> Rule {
    let mut rule = service_lookup(family);
    rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    Rule(rule)
}

/// `ip daddr @addresses ip saddr != NET drop`: a cluster IP is not for clients from elsewhere.
pub fn drop_from_outside(net: IpNet) -> Rule {
    let family = Family::of(net.addr());
    let from = compare_network(source(family, 1), Comparison::NotEqual, net);
    drop_at_cluster_ips(family, from)
}

/// `ip daddr @addresses iifname != "NAME" drop`
pub fn drop_from_other_input(family: Family, name: Vec<u8>) -> Rule {
    let from = [Expr::MetaLoad(Meta::InputName, 1), Expr::Compare(Comparison::NotEqual, 1, name)];
    drop_at_cluster_ips(family, from.into())
}

fn drop_at_cluster_ips(family: Family, from: Vec<Expr>) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend([destination(family, 1), lookup(Set::Addresses(family), Find::Present)]);
    rule.extend(from);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `ip daddr . meta l4proto . th dport @guarded jump chain`
pub fn guard(family: Family, then: Chain) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend(frontend(family, registers(family)));
    rule.extend([lookup(Set::Guarded(family), Find::Present), Expr::Verdict(Verdict::Jump(then))]);
    Rule(rule)
}

/// `meta priority set ip saddr & MASK . ip daddr . meta l4proto . th dport map @allowed
/// meta priority LENGTH return`: the client is in a network of this length that may ask.
pub fn return_if_allowed(family: Family, length: u8) -> Rule {
    let (rest, bits, mask) = match family {
        Family::V4 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            ((9, 10, 11), 32, mask.to_be_bytes().to_vec())
        }
        Family::V6 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            ((2, 3, 17), 128, mask.to_be_bytes().to_vec())
        }
    };
    let mut rule = is_family(family).to_vec();
    rule.push(source(family, 1));
    if length < bits {
        rule.push(Expr::Mask { register: 1, mask });
    }
    rule.extend(frontend(family, rest));
    rule.extend([
        lookup(Set::Allowed(family), Find::Data(1)),
        Expr::MetaSet(Meta::Priority, 1),
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Compare(Comparison::Equal, 1, u32::from(length).to_ne_bytes().to_vec()),
        Expr::Verdict(Verdict::Return),
    ]);
    Rule(rule)
}

/// `meta priority set meta priority & ffff:f000 map @locals meta priority & 0:fff vmap @inners`:
/// from the pool to its local endpoints.
pub fn find_local() -> Rule {
    let mut rule = pool().to_vec();
    rule.extend([lookup(Set::Locals, Find::Data(1)), Expr::MetaSet(Meta::Priority, 1)]);
    rule.extend(class_lookup(Set::Inners));
    Rule(rule)
}

/// `meta priority & 0:fff vmap @inners`, as the end of a rule.
pub fn going_inside() -> Vec<Expr> {
    class_lookup(Set::Inners).to_vec()
}

/// `ip saddr NET …`
pub fn from_inside(net: IpNet, then: Vec<Expr>) -> Rule {
    let family = Family::of(net.addr());
    let mut rule = is_family(family).to_vec();
    rule.extend(compare_network(source(family, 1), Comparison::Equal, net));
    rule.extend(then);
    Rule(rule)
}

/// `iifname "NAME" …`
pub fn from_input(name: Vec<u8>, then: Vec<Expr>) -> Rule {
    let mut rule =
        vec![Expr::MetaLoad(Meta::InputName, 1), Expr::Compare(Comparison::Equal, 1, name)];
    rule.extend(then);
    Rule(rule)
}

/// `fib saddr type local …`: the node's own.
pub fn from_this_node(then: Vec<Expr>) -> Rule {
    const RTN_LOCAL: u32 = 2;
    let mut rule = vec![
        Expr::SourceType { to: 1 },
        Expr::Compare(Comparison::Equal, 1, RTN_LOCAL.to_ne_bytes().to_vec()),
    ];
    rule.extend(then);
    Rule(rule)
}

/// `ct original ip daddr != NET goto chain`
pub fn originally_outside(net: IpNet, then: Chain) -> Rule {
    let family = Family::of(net.addr());
    let mut rule = is_family(family).to_vec();
    rule.push(Expr::CtLoad(original_address(family), 1));
    let compared = compare_network(destination(family, 1), Comparison::NotEqual, net);
    rule.extend(compared.into_iter().filter(|expr| !matches!(expr, Expr::Payload { .. })));
    rule.push(Expr::Verdict(Verdict::Goto(then)));
    Rule(rule)
}

fn original_address(family: Family) -> Ct {
    match family {
        Family::V4 => Ct::OriginalAddress4,
        Family::V6 => Ct::OriginalAddress6,
    }
}

/// `meta l4proto P ct original ip daddr @nodes
/// meta priority set meta l4proto . ct original proto-dst map @nodeports goto chain`
pub fn find_original_node_port(family: Family, protocol: Protocol, then: Chain) -> Rule {
    let mut rule = is_protocol(protocol).to_vec();
    rule.extend([
        Expr::CtLoad(original_address(family), 1),
        lookup(Set::Nodes(family), Find::Present),
        Expr::MetaLoad(Meta::Protocol, 1),
        Expr::CtLoad(Ct::OriginalPort, 9),
        lookup(Set::NodePorts(family), Find::Data(1)),
        Expr::MetaSet(Meta::Priority, 1),
        Expr::Verdict(Verdict::Goto(then)),
    ]);
    Rule(rule)
}

/// `meta priority set ip daddr . meta l4proto . th dport map @services drop`
pub fn drop_service(family: Family) -> Rule {
    let mut rule = service_lookup(family);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `socket wildcard 1 goto chain` `socket transparent 1 accept` `goto chain`: the relay has it, or what is
/// in the chain happens. Others have transparent sockets too (squid, haproxy); the relay's are bound to
/// an address.
pub fn unless_relayed(then: &Chain) -> [Rule; 3] {
    let socket = |is, verdict| {
        Rule(vec![
            Expr::Socket { is, to: 1 },
            Expr::Compare(Comparison::Equal, 1, vec![1]),
            Expr::Verdict(verdict),
        ])
    };
    [
        socket(SocketIs::Wildcard, Verdict::Goto(then.clone())),
        socket(SocketIs::Transparent, Verdict::Accept),
        goto(then.clone()),
    ]
}

/// `icmp type … ct state related,untracked accept`: that an answer is too big for its path, which the
/// kernel learns for whose answer it was. The relay's sockets that answer datagrams are not transparent.
pub fn accept_too_big(family: Family) -> Rule {
    const RELATED: u32 = 1 << 2;
    const UNTRACKED: u32 = 1 << 6;
    let mut rule = too_big(family);
    rule.extend([
        Expr::CtLoad(Ct::State, 1),
        Expr::Mask { register: 1, mask: (RELATED | UNTRACKED).to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Accept),
    ]);
    Rule(rule)
}

/// `ip daddr @set goto chain`
pub fn destination_in(set: Set, family: Family, then: Chain) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend([destination(family, 1), lookup(set, Find::Present), going_to(then)]);
    Rule(rule)
}

/// `ip daddr NET counter drop`
pub fn destination_within_counted(net: IpNet) -> Rule {
    let family = Family::of(net.addr());
    let mut rule = is_family(family).to_vec();
    rule.extend(compare_network(destination(family, 1), Comparison::Equal, net));
    rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    Rule(rule)
}

/// As `destination_in`, counted.
pub fn destination_in_counted(set: Set, family: Family) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend([destination(family, 1), lookup(set, Find::Present), Expr::Counter]);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `ip saddr . ip saddr @hairpin counter drop`: the source is an endpoint.
pub fn from_endpoint_counted(family: Family) -> Rule {
    let (first, second, _) = registers(family);
    let mut rule = is_family(family).to_vec();
    rule.extend([source(family, first), source(family, second)]);
    rule.extend([lookup(Set::Hairpin(family), Find::Present), Expr::Counter]);
    rule.push(Expr::Verdict(Verdict::Drop));
    Rule(rule)
}

/// `ip saddr @departed counter drop`: the source was an endpoint until lately.
pub fn from_departed_counted(family: Family) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend([source(family, 1), lookup(Set::Departed(family), Find::Present)]);
    rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    Rule(rule)
}

/// `meta priority & 0:fff vmap @map`
pub fn by_class(map: Set) -> Rule {
    Rule(class_lookup(map).to_vec())
}

fn class_lookup(map: Set) -> [Expr; 3] {
    [
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Mask { register: 1, mask: CLASS_MASK.to_ne_bytes().to_vec() },
        lookup(map, Find::Data(0)),
    ]
}

/// `meta priority & ffff:f000`, into register 1.
fn pool() -> [Expr; 2] {
    [
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Mask { register: 1, mask: (!CLASS_MASK).to_ne_bytes().to_vec() },
    ]
}

/// `meta priority set meta priority & ffff:f000`: only the pool remains.
pub fn strip_class() -> Rule {
    let mut rule = pool().to_vec();
    rule.push(Expr::MetaSet(Meta::Priority, 1));
    Rule(rule)
}

/// `meta priority set 0`: nothing of ours leaves the node.
pub fn clear_priority() -> Rule {
    Rule(vec![Expr::ImmediateValue(1, vec![0; 4]), Expr::MetaSet(Meta::Priority, 1)])
}

fn dnat(family: Family) -> Expr {
    let (address, port, _) = registers(family);
    Expr::Dnat { family: nfproto(family), address, port: Some(port) }
}

/// `meta l4proto P dnat to meta priority & ffff:f000 . numgen random mod N map @endpoints`: of the
/// priority only the pool. nft takes a masked value as the first part of a key, as no other.
pub fn spread(family: Family, protocol: Protocol, (scope, size): (Scope, u32)) -> Rule {
    let mut rule = is_protocol(protocol).to_vec();
    rule.extend(pool());
    rule.extend([
        Expr::Random { to: 9, modulus: size, offset: first_slot(scope) },
        lookup(Set::endpoints(family, size), Find::Data(1)),
        dnat(family),
    ]);
    Rule(rule)
}

/// `meta l4proto P dnat to meta priority map @pinned`
pub fn to_pinned(family: Family, protocol: Protocol, scope: Scope) -> Rule {
    let mut rule = is_protocol(protocol).to_vec();
    rule.extend([
        Expr::MetaLoad(Meta::Priority, 1),
        lookup(Set::Pinned(family, scope), Find::Data(1)),
        dnat(family),
    ]);
    Rule(rule)
}

/// The client as affinity knows it, into register 1; the pool into 9.
fn pin_key(family: Family) -> Vec<Expr> {
    match family {
        Family::V4 => vec![source(family, 1), Expr::MetaLoad(Meta::Priority, 9)],
        Family::V6 => vec![
            source(family, 2),
            Expr::Hash { from: 2, length: 16, to: 1 },
            Expr::MetaLoad(Meta::Priority, 9),
        ],
    }
}

/// `meta priority set <client> . meta priority map @affinity goto chain`
pub fn find_pin(family: Family, then: Chain) -> Rule {
    let mut rule = is_family(family).to_vec();
    if family == Family::V6 {
        // Alone in its rule the hash's input is loaded where nft has room for it.
        rule.extend([
            source(family, 14),
            Expr::Hash { from: 14, length: 16, to: 1 },
            Expr::MetaLoad(Meta::Priority, 9),
        ]);
    } else {
        rule.extend(pin_key(family));
    }
    rule.extend([
        lookup(Set::Affinity(family), Find::Data(1)),
        Expr::MetaSet(Meta::Priority, 1),
        Expr::Verdict(Verdict::Goto(then)),
    ]);
    Rule(rule)
}

/// `update @affinity { <client> . pool timeout T : <no token> }`: a pin that is there lasts anew and
/// keeps its token; where there is none it says of the client that it is not pinned yet.
pub fn refresh_pin(family: Family, seconds: u32) -> Rule {
    let mut rule = is_family(family).to_vec();
    rule.extend(pin_key(family));
    rule.push(Expr::ImmediateValue(2, NO_TOKEN.to_ne_bytes().to_vec()));
    rule.push(Expr::Dynamic {
        op: DynamicSet::Update,
        set: Set::Affinity(family).name().into(),
        key: 1,
        data: 2,
        timeout_ms: u64::from(seconds) * 1000,
    });
    Rule(rule)
}

/// `delete @affinity { … } update @affinity { <client> . pool timeout T : <token> }`: an update
/// alone refreshes the time but keeps the old value. Where the set is full the rule ends before its
/// verdict, and the connection stays unpinned.
pub fn record_pin(family: Family, seconds: u32) -> Rule {
    let mut rule = is_family(family).to_vec();
    for op in [DynamicSet::Delete, DynamicSet::Update] {
        rule.extend(pin_key(family));
        let (port, length) = match family {
            Family::V4 => (18, 12),
            Family::V6 => (21, 24),
        };
        rule.extend([
            Expr::MetaLoad(Meta::Priority, 3),
            destination(family, 17),
            destination_port(port),
            Expr::Hash { from: 3, length, to: 2 },
            Expr::Dynamic {
                op,
                set: Set::Affinity(family).name().into(),
                key: 1,
                data: 2,
                timeout_ms: if op == DynamicSet::Update { u64::from(seconds) * 1000 } else { 0 },
            },
        ]);
    }
    rule.push(Expr::Verdict(Verdict::Return));
    Rule(rule)
}

/// `counter`
pub fn count() -> Rule {
    Rule(vec![Expr::Counter])
}

/// `meta l4proto P meta priority set ct original … map @services goto chain`: the connection was
/// to one of our frontends.
pub fn find_original(family: Family, protocol: Protocol, then: Chain) -> Rule {
    let (address, second, third) = registers(family);
    let mut rule = is_protocol(protocol).to_vec();
    rule.extend([
        Expr::CtLoad(original_address(family), address),
        Expr::MetaLoad(Meta::Protocol, second),
        Expr::CtLoad(Ct::OriginalPort, third),
        lookup(Set::Services(family), Find::Data(1)),
        Expr::MetaSet(Meta::Priority, 1),
        Expr::Verdict(Verdict::Goto(then)),
    ]);
    Rule(rule)
}

/// `ct status ! dnat accept`
pub fn accept_unless_dnat() -> Rule {
    const IPS_DST_NAT: u32 = 1 << 5;
    Rule(vec![
        Expr::CtLoad(Ct::Status, 1),
        Expr::Mask { register: 1, mask: IPS_DST_NAT.to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::Equal, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Accept),
    ])
}

/// `ct state == invalid goto chain`
pub fn if_invalid(then: Chain) -> Rule {
    const STATE_INVALID: u32 = 1;
    if_state(STATE_INVALID, Verdict::Goto(then))
}

/// `ct state == established accept`
pub fn accept_established() -> Rule {
    const STATE_ESTABLISHED: u32 = 2;
    if_state(STATE_ESTABLISHED, Verdict::Accept)
}

/// `tcp flags & syn == 0 ct state == established accept`
pub fn accept_going_on() -> Rule {
    let Rule(established) = accept_established();
    Rule(opens_nothing().into_iter().chain(established).collect())
}

/// A packet has one state only, so that no bit need be masked.
fn if_state(state: u32, verdict: Verdict) -> Rule {
    Rule(vec![
        Expr::CtLoad(Ct::State, 1),
        Expr::Compare(Comparison::Equal, 1, state.to_ne_bytes().to_vec()),
        Expr::Verdict(verdict),
    ])
}

/// `meta priority & 0:fff == none meta priority != none goto chain`: a pool without a class.
pub fn if_pool_alone(then: Chain) -> Rule {
    Rule(vec![
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Mask { register: 1, mask: CLASS_MASK.to_ne_bytes().to_vec() },
        Expr::Compare(Comparison::Equal, 1, vec![0; 4]),
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Goto(then)),
    ])
}

/// `meta priority != none goto chain`
pub fn if_priority(then: Chain) -> Rule {
    Rule(vec![
        Expr::MetaLoad(Meta::Priority, 1),
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        Expr::Verdict(Verdict::Goto(then)),
    ])
}

/// `masquerade fully-random`
pub fn masquerade() -> Expr {
    Expr::MasqueradeRandom
}

/// `goto chain`, as the end of a rule.
pub fn going_to(chain: Chain) -> Expr {
    Expr::Verdict(Verdict::Goto(chain))
}

/// `ip saddr . ip daddr @hairpin …`
pub fn from_itself(family: Family, then: Expr) -> Rule {
    hairpin(family, Find::Present, then)
}

/// `ip saddr . ip daddr != @hairpin accept`
pub fn accept_unless_from_itself(family: Family) -> Rule {
    hairpin(family, Find::Absent, Expr::Verdict(Verdict::Accept))
}

fn hairpin(family: Family, find: Find, then: Expr) -> Rule {
    let (first, second, _) = registers(family);
    let mut rule = is_family(family).to_vec();
    rule.extend([source(family, first), destination(family, second)]);
    rule.extend([lookup(Set::Hairpin(family), find), then]);
    Rule(rule)
}

/// `ip saddr != NET …`
pub fn from_outside(net: IpNet, then: Expr) -> Rule {
    let family = Family::of(net.addr());
    let mut rule = is_family(family).to_vec();
    rule.extend(compare_network(source(family, 1), Comparison::NotEqual, net));
    rule.push(then);
    Rule(rule)
}

/// The input interface that local pods' packets come in by.
pub fn whole_name(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    padded
}

/// `iifname != "NAME" iif != 0 …`: came in by another interface. None at all
/// have the node's own packets, and with br_netfilter those between two ports of a bridge (it
/// calls this hook without an input device).
pub fn from_other_input(name: Vec<u8>, then: Expr) -> Rule {
    Rule(vec![
        Expr::MetaLoad(Meta::InputName, 1),
        Expr::Compare(Comparison::NotEqual, 1, name),
        Expr::MetaLoad(Meta::InputIndex, 1),
        Expr::Compare(Comparison::NotEqual, 1, vec![0; 4]),
        then,
    ])
}

/// `iifname != "NAME" fib saddr type local …`: the node's own.
pub fn from_node(name: Vec<u8>, then: Expr) -> Rule {
    const RTN_LOCAL: u32 = 2;
    Rule(vec![
        Expr::MetaLoad(Meta::InputName, 1),
        Expr::Compare(Comparison::NotEqual, 1, name),
        Expr::SourceType { to: 1 },
        Expr::Compare(Comparison::Equal, 1, RTN_LOCAL.to_ne_bytes().to_vec()),
        then,
    ])
}

/// `meta l4proto tcp reject with tcp reset`
pub fn reset_tcp() -> Rule {
    let mut rule = is_protocol(Protocol::Tcp).to_vec();
    rule.push(Expr::RejectWithReset);
    Rule(rule)
}

/// `meta l4proto tcp tcp flags & syn == 0 goto chain`: a segment that opens no connection.
pub fn if_midway(then: Chain) -> Rule {
    let mut rule = opens_nothing().to_vec();
    rule.push(going_to(then));
    Rule(rule)
}

/// `reject with icmpx port-unreachable`
pub fn unreachable() -> Rule {
    Rule(vec![Expr::RejectWithUnreachable])
}
