//! What the table says, twice: as a plan means it, and as `nft -j list table` shows it, read by
//! the crate `nftables`. Nothing of either knows a line of vipd's lowering.
//!
//! Numbers of pools, classes and tokens are resolved to what they lead to.

use crate::netns::Netns;
use nftables::expr::{Expression, NamedExpression, Verdict};
use nftables::schema::{NfListObject, NfObject};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use vipd::model::Family;
use vipd::planner::{
    Action, Forward, Frontend, FrontendAddress, Masquerade, Plan, PortPlan, Reach, Scope,
};

type Socket = (IpAddr, u16);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    Refuse,
    Drop,
    /// Targets in order, without regard to their slots.
    Spread {
        sticky: Option<u32>,
        targets: Vec<Socket>,
        source: Source,
        /// Where clients from outside go, if elsewhere: nowhere, without a target.
        outside: Option<Vec<Socket>>,
    },
}

/// What becomes of the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The local detector says.
    Detected,
    Masqueraded,
    /// Only this node's own is masqueraded.
    Kept,
}

impl Source {
    fn of(forward: Forward) -> Self {
        match forward.masquerade {
            Masquerade::Always => Source::Masqueraded,
            Masquerade::NodeOnly => Source::Kept,
            Masquerade::Never | Masquerade::UnlessLocal => Source::Detected,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By address, or `node port` and family; protocol and port.
    pub frontends: BTreeMap<(String, String, u16), Treatment>,
    /// Frontends that not everybody may ask, with who may.
    pub guarded: BTreeMap<(String, String, u16), BTreeSet<String>>,
    /// Where node ports answer.
    pub nodes: BTreeSet<IpAddr>,
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
                let at = place(frontend);
                let treatment = match frontend.action {
                    Action::Reject => Treatment::Refuse,
                    Action::Drop => Treatment::Drop,
                    Action::Forward(forward) => {
                        let scopes = forward.reach.scopes().iter();
                        for scope in scopes.filter(|scope| !port.pool(**scope).is_empty()) {
                            let targets = targets(port, *scope);
                            sizes.insert(targets.len());
                            let pool = (port.name.clone(), port.protocol, port.family, *scope);
                            if port.affinity.is_some() {
                                pools.insert(pool, targets);
                            }
                        }
                        let sticky = port.affinity.map(|seconds| seconds.get());
                        let family =
                            if at.0.contains(':') || at.0 == "node port 6" { '6' } else { '4' };
                        held.recorded.extend(sticky.map(|seconds| (family, seconds)));
                        let named = match forward.reach {
                            Reach::Local => Scope::Local,
                            Reach::Cluster | Reach::LocalFromOutside => Scope::Cluster,
                        };
                        let outside = forward.reach == Reach::LocalFromOutside;
                        Treatment::Spread {
                            sticky,
                            targets: targets(port, named),
                            source: Source::of(forward),
                            outside: outside.then(|| targets(port, Scope::Local)),
                        }
                    }
                };
                if let FrontendAddress::Address(address) = frontend.at.at
                    && frontend.kind.name() == "ClusterIP"
                {
                    held.addresses.insert(address);
                }
                if let Some(allowed) = &frontend.allow {
                    let allowed = allowed.iter().map(ToString::to_string).collect();
                    held.guarded.insert(at.clone(), allowed);
                }
                held.frontends.insert(at, treatment);
            }
            let pooled =
                service.ports.iter().flat_map(|port| port.cluster.keys().chain(port.local.keys()));
            held.hairpin.extend(pooled.map(|target| target.address));
            held.hairpin.extend(&service.idle);
            held.pinned.extend(pools.into_values().flatten());
        }
        held.nodes = plan.node.node_port_addresses.iter().copied().collect();
        assert!(sizes.len() <= 64, "{sizes:?}");
        held.pinned.sort_unstable();
        held.ranges = plan.node.service_ranges.iter().map(ToString::to_string).collect();
        held
    }

    /// Everything, a line for each part.
    pub fn lines(&self) -> BTreeSet<String> {
        let Self { frontends, guarded, nodes, addresses, hairpin, ranges, pinned, .. } = self;
        let Self { recorded, unreachable, .. } = self;
        let frontends = frontends.iter().map(|frontend| format!("{frontend:?}"));
        let guarded = guarded.iter().map(|guarded| format!("guarded {guarded:?}"));
        let addresses = addresses.iter().map(|address| format!("address {address}"));
        let hairpin = hairpin.iter().map(|address| format!("hairpin {address}"));
        let others = [
            format!("ranges {ranges:?}"),
            format!("nodes {nodes:?}"),
            format!("pinned {pinned:?}"),
            format!("recorded {recorded:?}"),
            format!("unreachable {unreachable}"),
        ];
        frontends.chain(guarded).chain(addresses).chain(hairpin).chain(others).collect()
    }

    /// What the kernel holds.
    pub fn read(node: &Netns) -> Self {
        let listed = elements(node);
        let maps = endpoint_maps(node);
        let each = |name: &'static str| ["4", "6"].map(|f| listed[&format!("{name}{f}")].iter());
        let verdicts = |name: &str| -> HashMap<u32, Verdict<'_>> {
            listed[name].iter().map(mapping).map(|(k, v)| (number(k), verdict(v))).collect()
        };
        let classes = Classes {
            entries: verdicts("classes"),
            inners: verdicts("inners"),
            exits: verdicts("exits"),
            recorders: verdicts("recorders"),
        };
        let mut slots: HashMap<&str, BTreeMap<(u32, u32), Socket>> = HashMap::new();
        for (map, elements) in listed.iter().filter(|(name, _)| name.starts_with("endpoints")) {
            let slots = slots.entry(map).or_default();
            for (key, value) in elements.iter().map(mapping) {
                let [pool, slot] = concat(key) else { panic!("pool . slot: {key:?}") };
                slots.insert((number(pool), number(slot)), socket(value));
            }
        }
        let locals: HashMap<u32, u32> =
            listed["locals"].iter().map(mapping).map(|(k, v)| (number(k), number(v))).collect();
        let mut held = Self::default();
        let mut used: BTreeSet<(&str, u32, bool)> = BTreeSet::new();
        let mut spread = |value: u32, chain: &str, (family, protocol): (char, &str)| {
            let pool = value & !0xfff;
            let class = read_chain(chain, family as u8, protocol);
            let local = if class.local { "-local" } else { "" };
            let map = maps[&format!("spread{family}-{protocol}-{}{local}", class.size)].as_str();
            let first = if class.local { 1 << 30 } else { 0 };
            let of_pool = slots[map].range((pool, first)..=(pool, first | (u32::MAX >> 2)));
            let mut targets: Vec<Socket> = of_pool.clone().map(|(_, to)| *to).collect();
            let numbers: Vec<u32> = of_pool.map(|((_, slot), _)| *slot - first).collect();
            assert_eq!(numbers, (0..class.size).collect::<Vec<_>>(), "slots of pool {pool:x}");
            targets.sort_unstable();
            used.insert((map, pool, class.local));
            (class.sticky, targets)
        };
        for (map, at) in
            ["services4", "services6", "nodeports4", "nodeports6"].map(|m| (m, &m[m.len() - 1..]))
        {
            let family = at.chars().next().expect("a family");
            for (key, value) in listed[map].iter().map(mapping) {
                let (at, protocol, port) = match concat(key) {
                    [ip, protocol, port] => (address(ip).to_string(), protocol, port),
                    [protocol, port] => (format!("node port {family}"), protocol, port),
                    other => panic!("a frontend: {other:?}"),
                };
                let protocol = text(protocol);
                let (value, class) = (number(value), number(value) & 0xfff);
                let treatment = match classes.entries.get(&class) {
                    Some(Verdict::Drop) => Treatment::Drop,
                    Some(Verdict::Goto(to)) if to.target == "refuse" => Treatment::Refuse,
                    Some(Verdict::Goto(to)) => {
                        let local_first = to.target == format!("local{family}");
                        let chain = match (local_first, classes.inners.get(&class)) {
                            (true, Some(Verdict::Goto(inner))) => &inner.target,
                            (false, _) => &to.target,
                            other => panic!("class {class}: {other:?}"),
                        };
                        let (sticky, targets) = spread(value, chain, (family, protocol));
                        let source = classes.exit(class, (family, sticky));
                        held.recorded.extend(sticky.map(|seconds| (family, seconds)));
                        let outside = local_first.then(|| {
                            let Some(to) = locals.get(&(value & !0xfff)) else { return Vec::new() };
                            let Some(Verdict::Goto(chain)) = classes.entries.get(&(to & 0xfff))
                            else {
                                panic!("locals lead to class {:x}", to & 0xfff)
                            };
                            spread(*to, &chain.target, (family, protocol)).1
                        });
                        Treatment::Spread { sticky, targets, source, outside }
                    }
                    other => panic!("class {class} of {key:?} leads to {other:?}"),
                };
                let frontend = (at, protocol.to_owned(), number(port) as u16);
                assert_eq!(held.frontends.insert(frontend, treatment), None);
            }
        }
        for element in each("guarded").into_iter().flatten() {
            let [ip, protocol, port] = concat(element) else { panic!("guarded: {element:?}") };
            let at = (address(ip).to_string(), text(protocol).to_owned(), number(port) as u16);
            held.guarded.insert(at, BTreeSet::new());
        }
        for (key, length) in each("allowed").into_iter().flatten().map(mapping) {
            let [clients, ip, protocol, port] = concat(key) else { panic!("allowed: {key:?}") };
            let at = (address(ip).to_string(), text(protocol).to_owned(), number(port) as u16);
            let network = format!("{}/{}", address(clients), number(length));
            held.guarded.get_mut(&at).expect("a guarded frontend").insert(network);
        }
        held.nodes = each("nodes").into_iter().flatten().map(address).collect();
        for (map, slots) in &slots {
            let reached =
                |(pool, slot): &(u32, u32)| used.contains(&(*map, *pool, slot >> 30 == 1));
            let unreachable = slots.keys().filter(|at| !reached(at));
            held.unreachable += unreachable.count();
        }
        held.addresses = each("addresses").into_iter().flatten().map(address).collect();
        for element in each("hairpin").into_iter().flatten() {
            let [source, destination] = concat(element) else { panic!("twice: {element:?}") };
            assert_eq!(source, destination);
            held.hairpin.insert(address(source));
        }
        held.ranges = each("ranges").into_iter().flatten().map(range).collect();
        let pinned = ["pinned4", "pinned6", "pinned4-local", "pinned6-local"];
        let pinned = pinned.iter().flat_map(|name| &listed[*name]);
        held.pinned = pinned.map(|e| socket(mapping(e).1)).collect();
        held.pinned.sort_unstable();
        held
    }
}

/// Where a plan's frontend stands, as it is listed.
fn place(frontend: &Frontend) -> (String, String, u16) {
    let at = match frontend.at.at {
        FrontendAddress::Address(address) => address.to_string(),
        FrontendAddress::NodePort(family) => {
            format!("node port {}", if family == Family::V4 { 4 } else { 6 })
        }
    };
    (at, frontend.at.protocol.name().to_lowercase(), frontend.at.port)
}

fn targets(port: &PortPlan, scope: Scope) -> Vec<Socket> {
    port.pool(scope).keys().map(|target| (target.address, target.port)).collect()
}

/// What classes lead to.
struct Classes<'a> {
    entries: HashMap<u32, Verdict<'a>>,
    inners: HashMap<u32, Verdict<'a>>,
    exits: HashMap<u32, Verdict<'a>>,
    recorders: HashMap<u32, Verdict<'a>>,
}

impl Classes<'_> {
    fn exit(&self, class: u32, (family, sticky): (char, Option<u32>)) -> Source {
        let recorder = match self.recorders.get(&class) {
            None => None,
            Some(Verdict::Jump(to)) => Some(to.target.to_string()),
            other => panic!("class {class} is pinned by {other:?}"),
        };
        assert_eq!(recorder, sticky.map(|seconds| format!("record{family}-{seconds}")));
        match self.exits.get(&class) {
            None => Source::Detected,
            Some(Verdict::Goto(to)) if to.target == format!("leave{family}") => Source::Masqueraded,
            Some(Verdict::Goto(to)) => {
                assert_eq!(to.target, format!("leave-local{family}"));
                Source::Kept
            }
            other => panic!("class {class} leaves by {other:?}"),
        }
    }
}

/// A class by the name of its first chain.
struct Chain {
    size: u32,
    local: bool,
    sticky: Option<u32>,
}

fn read_chain(name: &str, family: u8, protocol: &str) -> Chain {
    // What the relay has not taken is spread as without one.
    let mut parts = name.strip_prefix("relayed-").unwrap_or(name).split('-');
    let kind = parts.next().unwrap_or_default();
    assert_eq!(parts.next(), Some(protocol), "{name}");
    let (words, numbers): (Vec<&str>, Vec<&str>) = parts.partition(|part| *part == "local");
    let numbers: Vec<u32> = numbers.iter().map(|part| part.parse().expect("a number")).collect();
    assert_eq!(kind.as_bytes().last(), Some(&family), "{name}");
    let (size, sticky) = match (&kind[..kind.len() - 1], &numbers[..]) {
        ("spread", [size]) => (*size, None),
        ("sticky", [size, seconds]) => (*size, Some(*seconds)),
        _ => panic!("no class begins at {name}"),
    };
    Chain { size, local: !words.is_empty(), sticky }
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
    let mut found = HashMap::new();
    for object in listing["nftables"].as_array().expect("a list") {
        let object: NfObject<'static> = serde_json::from_value(object.clone())
            .unwrap_or_else(|error| panic!("the crate reads {object}: {error}"));
        let NfObject::ListObject(object) = object else { continue };
        let (name, elements) = match object {
            NfListObject::Set(set) => (set.name.clone(), set.elem.clone()),
            NfListObject::Map(map) => (map.name.clone(), map.elem.clone()),
            _ => continue,
        };
        let elements = elements.unwrap_or_default().into_owned();
        if ["departed", "closed"].iter().any(|set| name.starts_with(set)) {
            let ends = |one: &Expression<'_>| matches!(one, Expression::Named(NamedExpression::Elem(elem)) if elem.expires.is_some());
            assert!(elements.iter().all(ends), "{name} remembers for ever: {elements:?}");
        }
        found.insert(name.into_owned(), elements);
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
