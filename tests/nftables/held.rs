//! What the table says, twice: as a plan means it, and as `nft -j list table` shows it, read by
//! the crate `nftables`. Nothing of either knows a line of vipd's lowering.
//!
//! Numbers of pools, classes and tokens are resolved to what they lead to.

use crate::netns::Netns;
use nftables::expr::{Expression, NamedExpression, Verdict};
use nftables::schema::{NfListObject, NfObject, Nftables};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use vipd::planner::{Action, FrontendAddress, Plan};

type Socket = (IpAddr, u16);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    Refuse,
    Drop,
    /// Targets in order, without regard to their slots.
    Spread {
        sticky: Option<u32>,
        targets: Vec<Socket>,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub frontends: BTreeMap<(IpAddr, String, u16), Treatment>,
    pub addresses: BTreeSet<IpAddr>,
    pub hairpin: BTreeSet<IpAddr>,
    pub ranges: BTreeSet<String>,
    /// Endpoints that pins may name: once for each sticky pool that has them.
    pub pinned: Vec<Socket>,
    /// Timeouts that pins are recorded with, by family.
    pub recorded: BTreeSet<(char, u32)>,
    /// Slots that no frontend leads to.
    pub unreachable: usize,
}

impl Held {
    /// What a plan means. Only for as many sizes of pools as get a slot per endpoint.
    pub fn of(plan: &Plan) -> Self {
        let mut held = Self::default();
        let mut sizes = BTreeSet::new();
        for service in plan.services() {
            let mut pools = HashMap::new();
            for (port, frontend) in service.held() {
                let FrontendAddress::Address(address) = frontend.at.at else { continue };
                let protocol = frontend.at.protocol.name().to_lowercase();
                let treatment = match &frontend.action {
                    Action::Reject => Treatment::Refuse,
                    Action::Drop => Treatment::Drop,
                    Action::Forward(forward) => {
                        let targets: Vec<Socket> = port
                            .pool(forward.scope)
                            .iter()
                            .map(|e| (e.target.address, e.target.port))
                            .collect();
                        assert!(!targets.is_empty());
                        sizes.insert(targets.len());
                        held.hairpin.extend(targets.iter().map(|(address, _)| address));
                        let sticky = port.affinity.map(|seconds| seconds.get());
                        if let Some(seconds) = sticky {
                            let family = if address.is_ipv4() { '4' } else { '6' };
                            held.recorded.insert((family, seconds));
                            let pool =
                                (port.name.clone(), port.protocol, port.family, forward.scope);
                            pools.insert(pool, targets.clone());
                        }
                        Treatment::Spread { sticky, targets }
                    }
                };
                held.addresses.insert(address);
                held.frontends.insert((address, protocol, frontend.at.port), treatment);
            }
            held.pinned.extend(pools.into_values().flatten());
        }
        assert!(sizes.len() <= 64, "{sizes:?}");
        held.pinned.sort_unstable();
        held.ranges = plan.node.service_ranges.iter().map(ToString::to_string).collect();
        held
    }

    /// Everything, a line for each part.
    pub fn lines(&self) -> BTreeSet<String> {
        let Self { frontends, addresses, hairpin, ranges, pinned, recorded, unreachable } = self;
        let frontends = frontends.iter().map(|frontend| format!("{frontend:?}"));
        let addresses = addresses.iter().map(|address| format!("address {address}"));
        let hairpin = hairpin.iter().map(|address| format!("hairpin {address}"));
        let others = [
            format!("ranges {ranges:?}"),
            format!("pinned {pinned:?}"),
            format!("recorded {recorded:?}"),
            format!("unreachable {unreachable}"),
        ];
        frontends.chain(addresses).chain(hairpin).chain(others).collect()
    }

    /// What the kernel holds.
    pub fn read(node: &Netns) -> Self {
        let listed = elements(node);
        let maps = endpoint_maps(node);
        let each = |name: &'static str| ["4", "6"].map(|f| listed[&format!("{name}{f}")].iter());
        let classes: HashMap<u32, Verdict<'_>> =
            listed["classes"].iter().map(mapping).map(|(k, v)| (number(k), verdict(v))).collect();
        let recorders: HashMap<u32, Verdict<'_>> =
            listed["recorders"].iter().map(mapping).map(|(k, v)| (number(k), verdict(v))).collect();
        let mut slots: HashMap<&str, BTreeMap<(u32, u32), Socket>> = HashMap::new();
        for (map, elements) in listed.iter().filter(|(name, _)| name.starts_with("endpoints")) {
            let slots = slots.entry(map).or_default();
            for (key, value) in elements.iter().map(mapping) {
                let [pool, slot] = concat(key) else { panic!("pool . slot: {key:?}") };
                slots.insert((number(pool), number(slot)), socket(value));
            }
        }
        let mut held = Self::default();
        let mut used: BTreeSet<(&str, u32)> = BTreeSet::new();
        for (family, elements) in each("services").into_iter().enumerate() {
            for (key, value) in elements.map(mapping) {
                let [ip, protocol, port] = concat(key) else { panic!("a frontend: {key:?}") };
                let (pool, class) = (number(value) & !0xfff, number(value) & 0xfff);
                let treatment = match classes.get(&class) {
                    Some(Verdict::Drop) => Treatment::Drop,
                    Some(Verdict::Goto(to)) if to.target == "refuse" => Treatment::Refuse,
                    Some(Verdict::Goto(to)) => {
                        let (size, sticky) =
                            read_chain(&to.target, [b'4', b'6'][family], text(protocol));
                        let spread =
                            format!("spread{}-{}-{size}", ['4', '6'][family], text(protocol));
                        let map = maps[&spread].as_str();
                        let of_pool = slots[map].range((pool, 0)..=(pool, u32::MAX));
                        let mut targets: Vec<Socket> = of_pool.clone().map(|(_, to)| *to).collect();
                        let numbers: Vec<u32> = of_pool.map(|((_, slot), _)| *slot).collect();
                        assert_eq!(numbers, (0..size).collect::<Vec<_>>(), "slots of {key:?}");
                        targets.sort_unstable();
                        used.insert((map, pool));
                        if let Some(seconds) = sticky {
                            let Some(Verdict::Jump(to)) = recorders.get(&class) else {
                                panic!("no recorder of class {class}")
                            };
                            let family = ['4', '6'][family];
                            assert_eq!(to.target, format!("record{family}-{seconds}"));
                            held.recorded.insert((family, seconds));
                        }
                        Treatment::Spread { sticky, targets }
                    }
                    other => panic!("class {class} of {key:?} leads to {other:?}"),
                };
                let frontend = (address(ip), text(protocol).to_owned(), number(port) as u16);
                assert_eq!(held.frontends.insert(frontend, treatment), None);
            }
        }
        for (map, slots) in &slots {
            let unreachable = slots.keys().filter(|(pool, _)| !used.contains(&(*map, *pool)));
            held.unreachable += unreachable.count();
        }
        held.addresses = each("addresses").into_iter().flatten().map(address).collect();
        for element in each("hairpin").into_iter().flatten() {
            let [source, destination] = concat(element) else { panic!("twice: {element:?}") };
            assert_eq!(source, destination);
            held.hairpin.insert(address(source));
        }
        held.ranges = each("ranges").into_iter().flatten().map(range).collect();
        held.pinned = each("pinned").into_iter().flatten().map(|e| socket(mapping(e).1)).collect();
        held.pinned.sort_unstable();
        held
    }
}

/// (slots, seconds of affinity) of a class's first chain.
fn read_chain(name: &str, family: u8, protocol: &str) -> (u32, Option<u32>) {
    let mut parts = name.split('-');
    let kind = parts.next().unwrap_or_default();
    assert_eq!(parts.next(), Some(protocol), "{name}");
    let numbers: Vec<u32> = parts.map(|part| part.parse().expect("a number")).collect();
    assert_eq!(kind.as_bytes().last(), Some(&family), "{name}");
    match (&kind[..kind.len() - 1], &numbers[..]) {
        ("spread", [size]) => (*size, None),
        ("sticky", [size, seconds]) => (*size, Some(*seconds)),
        _ => panic!("no class begins at {name}"),
    }
}

/// The map that each chain takes its endpoints from.
fn endpoint_maps(node: &Netns) -> HashMap<String, String> {
    let listing = node.sh("nft -j -t list table inet vipd");
    let listing: Value = serde_json::from_str(&listing).expect("nft prints JSON");
    let rules = listing["nftables"].as_array().expect("a list").iter();
    let maps = rules.filter_map(|object| {
        let rule = object.get("rule")?;
        let mut statements = rule["expr"].as_array()?.iter();
        let map = statements.find_map(|one| one.pointer("/dnat/addr/map/data"))?.as_str()?;
        Some((rule["chain"].as_str()?.to_owned(), map.strip_prefix('@')?.to_owned()))
    });
    maps.filter(|(_, map)| map.starts_with("endpoints")).collect()
}

/// The elements of every named set and map.
fn elements(node: &Netns) -> HashMap<String, Vec<Expression<'static>>> {
    let listing = node.sh("nft -j list table inet vipd");
    let mut listing: Value = serde_json::from_str(&listing).expect("nft prints JSON");
    let objects = listing["nftables"].as_array_mut().expect("a list");
    objects.retain_mut(spell_for_the_crate);
    let listing: Nftables<'static> = serde_json::from_value(listing).expect("the crate reads it");
    let mut found = HashMap::new();
    for object in listing.objects.into_owned() {
        let NfObject::ListObject(object) = object else { continue };
        let (name, elements) = match object {
            NfListObject::Set(set) => (set.name.clone(), set.elem.clone()),
            NfListObject::Map(map) => (map.name.clone(), map.elem.clone()),
            _ => continue,
        };
        found.insert(name.into_owned(), elements.unwrap_or_default().into_owned());
    }
    found
}

/// Where nft 1.0.6 and the crate differ: type names that the crate lacks, the data type of a
/// concatenation as one text, a single flag as text. False for rules that nft has no JSON for: it
/// prints dynamic set statements as text, and a hash's modulus as -1.
fn spell_for_the_crate(object: &mut Value) -> bool {
    let known = |name: &str| match name {
        "classid" | "integer" | "verdict" => "mark".to_owned(),
        other => other.to_owned(),
    };
    let fix = |kind: &mut Value| match kind {
        Value::String(text) => {
            let parts: Vec<Value> = text.split(" . ").map(|part| known(part).into()).collect();
            *kind = if parts.len() == 1 { parts[0].clone() } else { parts.into() };
        }
        Value::Array(parts) => {
            parts.iter_mut().for_each(|part| *part = known(part.as_str().expect("a name")).into());
        }
        _ => {}
    };
    for kind in ["set", "map"] {
        if let Some(object) = object.get_mut(kind) {
            for of in ["type", "map"] {
                object.get_mut(of).into_iter().for_each(fix);
            }
            return true;
        }
    }
    let Some(rule) = object.get_mut("rule") else { return true };
    let hashes = rule.to_string().contains("jhash");
    let statements = rule["expr"].as_array_mut().expect("a list");
    for statement in &mut *statements {
        if let Some(flags @ Value::String(_)) = statement.pointer_mut("/masquerade/flags") {
            *flags = vec![flags.take()].into();
        }
        // The crate has no word for "none of these flags".
        if let Some(op @ Value::String(_)) = statement.pointer_mut("/match/op")
            && op == "!"
        {
            *op = "!=".into();
        }
    }
    !hashes && !statements.iter().any(Value::is_string)
}

fn mapping<'e>(
    element: &'e Expression<'static>,
) -> (&'e Expression<'static>, &'e Expression<'static>) {
    match element {
        Expression::List(pair) if pair.len() == 2 => (&pair[0], &pair[1]),
        other => panic!("no mapping: {other:?}"),
    }
}

fn concat<'e>(expression: &'e Expression<'static>) -> &'e [Expression<'static>] {
    match expression {
        Expression::Named(NamedExpression::Concat(parts)) => parts,
        other => panic!("no concatenation: {other:?}"),
    }
}

fn text<'e>(expression: &'e Expression<'static>) -> &'e str {
    match expression {
        Expression::String(text) => text,
        other => panic!("no text: {other:?}"),
    }
}

fn address(expression: &Expression<'static>) -> IpAddr {
    text(expression).parse().expect("an address")
}

fn socket(expression: &Expression<'static>) -> Socket {
    let [ip, port] = concat(expression) else { panic!("a target: {expression:?}") };
    (address(ip), number(port) as u16)
}

/// A number, or a priority as traffic control writes it.
fn number(expression: &Expression<'static>) -> u32 {
    let half = |text: &str| match text {
        "" => 0,
        text => u32::from_str_radix(text, 16).expect("hexadecimal"),
    };
    match expression {
        Expression::Number(number) => *number,
        Expression::String(text) if text == "none" => 0,
        Expression::String(text) if text == "root" => u32::MAX,
        Expression::String(text) => {
            let (major, minor) = text.split_once(':').expect("major:minor");
            half(major) << 16 | half(minor)
        }
        other => panic!("no number: {other:?}"),
    }
}

fn verdict(expression: &Expression<'static>) -> Verdict<'static> {
    match expression {
        Expression::Verdict(verdict) => verdict.clone(),
        other => panic!("no verdict: {other:?}"),
    }
}

fn range(expression: &Expression<'static>) -> String {
    match expression {
        Expression::Named(NamedExpression::Prefix(prefix)) => {
            format!("{}/{}", text(&prefix.addr), prefix.len)
        }
        other => panic!("no prefix: {other:?}"),
    }
}
