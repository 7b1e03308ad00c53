//! Whatever others do to the table, it becomes again what the plan asks for: at once where the edit
//! was noticed, and by a look at everything where it was not.

use crate::elements::open;
use crate::held::Held;
use crate::netns::Netns;
use crate::plans::{Cluster, EVERY_KIND, WIDE, policy};
use crate::runner::{Case, namespace, random, remove};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vipd::dataplane::Dataplane;
use vipd::dataplane::nftables::{Error, Nftables};
use vipd::planner::Plan;

pub const CASES: &[Case] = &[
    ("each single edit is undone", each_edit),
    ("each single edit of pools of many endpoints is undone", each_wide_edit),
    ("any edits are undone", any_edits),
];

/// What an administrator could do with `nft`. An index picks one of what is there.
#[derive(Debug, Clone)]
enum Edit {
    DeleteElement(Index),
    /// The value becomes that of another element, if there is one.
    ReplaceElement(Index, Index),
    DeleteRule(Index),
    FlushSet(Index),
    FlushChain(Index),
    Script(&'static str),
}

/// Each line of a script is a command of one transaction.
const SCRIPTS: &[&str] = &[
    "add element inet vipd services4 { 10.96.9.9 . tcp . 99 : 0:1 }",
    "add element inet vipd services4 { 10.96.9.9 . tcp . 98 : ff:f003 }",
    "add element inet vipd services4 { 10.96.9.9 . udp . 97 : 0:fff }",
    "add element inet vipd services6 { fd00:96::99 . tcp . 99 : 0:1003 }",
    "add element inet vipd endpoints4 { 0:1000 . 77 : 10.9.9.9 . 9 }",
    "add element inet vipd endpoints4 { ff:f000 . 0 : 10.9.9.9 . 9 }",
    "add element inet vipd endpoints6 { 0:1000 . 0 : fd09::9 . 9 }",
    "add element inet vipd endpoints4-33 { 0:1000 . 0 : 10.1.0.1 . 8080 }",
    "add element inet vipd endpoints6-49 { ff:f000 . 48 : fd09::9 . 9 }",
    "add element inet vipd addresses4 { 10.96.9.9, 192.0.2.1 }",
    "add element inet vipd addresses6 { fd00:96::99 }",
    "add element inet vipd hairpin4 { 10.9.9.9 . 10.9.9.9, 10.9.9.9 . 10.9.9.8 }",
    "add element inet vipd hairpin6 { fd09::9 . fd09::8 }",
    "add element inet vipd departed4 { 192.0.2.1 }",
    "add element inet vipd departed6 { * }",
    "add element inet vipd closed4 { 192.0.2.1 . tcp . 80 }",
    "add element inet vipd closedports6 { * }",
    "add element inet vipd ranges4 { 198.51.100.0/24 }",
    "delete element inet vipd ranges4 { 10.96.0.0/16 }",
    "add element inet vipd pinned4 { 12:3450 : 10.9.9.9 . 9 }",
    "add element inet vipd classes { 0:f0 : goto refuse }",
    "add element inet vipd classes { 0:f1 : accept }",
    "delete element inet vipd classes { 0:1 }\nadd element inet vipd classes { 0:1 : accept }",
    "delete element inet vipd classes { 0:3 }\nadd element inet vipd classes { 0:3 : continue }",
    "add element inet vipd exits { 0:3 : return }",
    "add element inet vipd exits { 0:3 : drop }",
    "add element inet vipd services4 { * : 0:2 }",
    "add element inet vipd classes { * : drop }",
    "add element inet vipd endpoints6 { * : fd09::9 . 9 }",
    "add element inet vipd pinned4 { * : 10.9.9.9 . 9 }",
    "insert rule inet vipd prerouting accept",
    "add set inet vipd mine { type ipv4_addr; }\n\
     add rule inet vipd prerouting ip daddr @mine drop comment \"mine\"",
    "add chain inet vipd mine\n\
     add map inet vipd mine { type ipv4_addr : verdict; elements = { 10.0.0.1 : goto mine }; }",
    "add chain inet vipd postrouting { policy drop; }",
    "add rule inet vipd spread4-tcp-2 ip daddr { 192.0.2.1, 192.0.2.3 } drop",
    "insert rule inet vipd postrouting ip daddr vmap { 192.0.2.1 : drop, 192.0.2.3 : accept }",
    "add chain inet vipd mine\nadd rule inet vipd mine drop\ninsert rule inet vipd prerouting goto mine",
    "add chain inet vipd mine2\nadd chain inet vipd mine1\nadd rule inet vipd mine1 jump mine2",
    "add chain inet vipd mine1\nadd chain inet vipd mine2\nadd rule inet vipd mine2 jump mine1",
    "add chain inet vipd mine { type filter hook input priority 0; policy drop; }",
    "flush chain inet vipd prerouting\ndelete chain inet vipd prerouting",
    "flush chain inet vipd postrouting\ndelete chain inet vipd postrouting\n\
     add chain inet vipd postrouting { type nat hook postrouting priority 90; }",
    "flush map inet vipd classes\nflush map inet vipd inners\nflush chain inet vipd spread4-tcp-3\ndelete chain inet vipd spread4-tcp-3",
    "add table inet vipd { flags dormant; }",
    "add table inet vipd { flags dormant; }\nflush chain inet vipd output",
    "add table inet vipd { flags dormant; }\nflush chain inet vipd output\n\
     delete chain inet vipd output",
    "add table inet vipd { flags dormant; }\nflush map inet vipd services4\n\
     add chain inet vipd mine",
    "flush table inet vipd",
    "delete table inet vipd",
    "delete table inet vipd\nadd table inet vipd",
    "flush ruleset",
    "delete table inet vipd\nadd table inet vipd\nadd chain inet vipd ours4\n\
     add map inet vipd services4 { type ipv4_addr : mark; }",
];

/// The same for `WIDE`, whose pools are 1 in `endpoints4-33`, and 2 and 3 in `endpoints4-49`.
const WIDE_SCRIPTS: &[&str] = &[
    "delete element inet vipd endpoints4-33 { 0:1000 . 32 }",
    "delete element inet vipd endpoints4-49 { 0:2000 . 0 }",
    "delete element inet vipd endpoints4-49 { 0:3000 . 48 }\n\
     add element inet vipd endpoints4-49 { 0:3000 . 48 : 10.9.9.9 . 9 }",
    "add element inet vipd endpoints4 { 0:1000 . 0 : 10.1.1.1 . 8080 }",
    "add element inet vipd endpoints4-33 { 0:1000 . 33 : 10.1.1.1 . 8080 }",
    "add element inet vipd endpoints4-33 { 0:2000 . 0 : 10.1.1.1 . 8061 }",
    "add element inet vipd endpoints4-49 { 0:1000 . 0 : 10.1.1.1 . 8080 }",
    "add element inet vipd endpoints4-49 { * : 10.9.9.9 . 9 }",
    "flush map inet vipd endpoints4-33",
    "flush map inet vipd endpoints4-33\nflush map inet vipd endpoints4-49",
    "flush chain inet vipd spread4-tcp-33\ndelete map inet vipd endpoints4-33",
    "flush chain inet vipd spread4-tcp-33",
    "delete element inet vipd services4 { 10.96.0.20 . tcp . 80 }",
];

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        4 => index().prop_map(Edit::DeleteElement),
        4 => (index(), index()).prop_map(|(at, to)| Edit::ReplaceElement(at, to)),
        2 => index().prop_map(Edit::DeleteRule),
        2 => index().prop_map(Edit::FlushSet),
        1 => index().prop_map(Edit::FlushChain),
        5 => prop::sample::select(SCRIPTS).prop_map(Edit::Script),
    ]
}

impl Edit {
    /// False where `nft` refuses it, for example for what an edit before has removed.
    fn make(&self, node: &Netns) -> bool {
        let script = match self {
            Edit::Script(script) => (*script).to_owned(),
            Edit::FlushSet(at) => match pick(&named(node, &["set", "map"]), at) {
                Some((kind, name)) => format!("flush {kind} inet vipd {name}"),
                None => return false,
            },
            Edit::FlushChain(at) => match pick(&named(node, &["chain"]), at) {
                Some((_, name)) => format!("flush chain inet vipd {name}"),
                None => return false,
            },
            Edit::DeleteRule(at) => match pick(&rules(node), at) {
                Some((chain, handle)) => format!("delete rule inet vipd {chain} handle {handle}"),
                None => return false,
            },
            Edit::DeleteElement(at) => match pick(&elements(node), at) {
                Some((set, element)) => {
                    let key = element.split(" : ").next().unwrap_or_default();
                    format!("delete element inet vipd {set} {{ {key} }}")
                }
                None => return false,
            },
            Edit::ReplaceElement(at, to) => {
                let elements = elements(node);
                let Some((set, element)) = pick(&elements, at) else { return false };
                let Some((key, value)) = element.split_once(" : ") else { return false };
                let other: Vec<&str> = elements
                    .iter()
                    .filter(|(of, _)| *of == set)
                    .filter_map(|(_, element)| Some(element.split_once(" : ")?.1))
                    .filter(|other| *other != value)
                    .collect();
                let Some(other) = pick(&other, to) else { return false };
                format!(
                    "delete element inet vipd {set} {{ {key} }}\n\
                     add element inet vipd {set} {{ {key} : {other} }}"
                )
            }
        };
        node.try_sh(&format!("nft -f - <<'END'\n{script}\nEND")).code == 0
    }
}

fn pick<T: Clone>(from: &[T], at: &Index) -> Option<T> {
    (!from.is_empty()).then(|| at.get(from).clone())
}

/// Objects of these kinds: (kind, name).
fn named(node: &Netns, kinds: &[&str]) -> Vec<(String, String)> {
    let listing = node.try_sh("nft -t list table inet vipd").out;
    let words = listing.lines().filter_map(|line| line.strip_prefix('\t')?.split_once(' '));
    words
        .filter(|(kind, _)| kinds.contains(kind))
        .map(|(kind, rest)| (kind.to_owned(), rest.trim_end_matches(" {").to_owned()))
        .collect()
}

/// (chain, handle)
fn rules(node: &Netns) -> Vec<(String, String)> {
    let listing = node.try_sh("nft -a -t list table inet vipd").out;
    let mut chain = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        let (line, handle) = line.split_once(" # handle ").unwrap_or((line, ""));
        if let Some(name) = line.strip_prefix("\tchain ") {
            chain = name.trim_end_matches(" {");
        } else if line.starts_with("\t\t") && !handle.is_empty() {
            found.push((chain.to_owned(), handle.to_owned()));
        }
    }
    found
}

/// (set, element as listed), without those that the packet path writes.
fn elements(node: &Netns) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (kind, set) in named(node, &["set", "map"]) {
        let listing = node.try_sh(&format!("nft list {kind} inet vipd {set}")).out;
        let Some((_, rest)) = listing.split_once("elements = {") else { continue };
        let inside = rest.split('}').next().unwrap_or_default();
        for element in inside.split(',') {
            let words: Vec<&str> = element.split_whitespace().collect();
            found.push((set.clone(), words.join(" ")));
        }
    }
    found
}

/// Chains and sets, each as printed, in no order.
fn structure(node: &Netns) -> BTreeMap<String, String> {
    let listing = node.try_sh("nft -t list table inet vipd").out;
    let objects = listing.split("\n\t}\n").filter_map(|object| object.trim().split_once(" {\n"));
    objects
        .map(|(name, body)| (name.replace("table inet vipd {\n\t", ""), body.to_owned()))
        // A set that is not vipd's and that nothing refers to harms nobody.
        .filter(|(name, _)| name != "set mine" && name != "map mine")
        .collect()
}

/// How the damage is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Healer {
    /// The one that was there, told by notifications.
    Repair,
    /// The one that was there, without looking at notifications.
    Resync,
    /// One that was started after it.
    Restart,
}

const HEALERS: [Healer; 3] = [Healer::Repair, Healer::Resync, Healer::Restart];

fn heal(healer: Healer, nftables: &mut Nftables, node: &Netns, plan: &Plan) -> Result<(), Error> {
    match healer {
        // After an error the next call is a resync, as it is in the daemon.
        Healer::Repair if nftables.repair(plan).is_ok() => {}
        Healer::Repair | Healer::Resync => drop(nftables.resync(plan)?),
        Healer::Restart => {
            *nftables = open(node);
            nftables.resync(plan)?;
        }
    }
    nftables.settle().map(drop)
}

struct Expected {
    plan: Plan,
    structure: BTreeMap<String, String>,
}

impl Expected {
    fn new(services: &[&str]) -> Self {
        let node = namespace();
        let plan = Cluster::of(policy(), services).plan();
        open(&node).resync(&plan).expect("an empty namespace takes it");
        assert_eq!(Held::read(&node), Held::of(&plan));
        Self { plan, structure: structure(&node) }
    }

    /// Damages a fresh table and lets it be mended. How many edits were made; or what is wrong.
    fn check(&self, edits: &[Edit], healer: Healer) -> Result<usize, String> {
        let node = namespace();
        let mut nftables = open(&node);
        nftables.resync(&self.plan).expect("an empty namespace takes it");
        node.enter(|| nftables.subscribe()).expect("notifications can be had");
        let made = edits.iter().filter(|edit| edit.make(&node)).count();
        heal(healer, &mut nftables, &node, &self.plan).map_err(|error| error.to_string())?;
        let (seen, wanted) = (structure(&node), &self.structure);
        let wrong: Vec<_> = seen.iter().filter(|(name, s)| wanted.get(*name) != Some(s)).collect();
        let missing: Vec<_> = wanted.keys().filter(|name| !seen.contains_key(*name)).collect();
        if !wrong.is_empty() || !missing.is_empty() {
            return Err(format!("wrong or foreign: {wrong:#?}\nmissing: {missing:?}"));
        }
        let held = catch_unwind(AssertUnwindSafe(|| Held::read(&node)));
        let held = held.map_err(|panic| format!("what is held has no meaning: {panic:?}"))?;
        let (held, planned) = (held.lines(), Held::of(&self.plan).lines());
        if held != planned {
            let foreign: Vec<_> = held.difference(&planned).collect();
            let missing: Vec<_> = planned.difference(&held).collect();
            return Err(format!("foreign: {foreign:#?}\nmissing: {missing:#?}"));
        }
        let again = open(&node).resync(&self.plan).map_err(|error| error.to_string())?;
        if again.operations > 0 {
            return Err(format!("something was left to do: {again:?}"));
        }
        remove(&node);
        Ok(made)
    }
}

fn each_edit() {
    each_of(SCRIPTS, &Expected::new(EVERY_KIND));
}

fn each_wide_edit() {
    each_of(WIDE_SCRIPTS, &Expected::new(WIDE));
}

fn each_of(scripts: &[&'static str], expected: &Expected) {
    let mut wrong = Vec::new();
    for script in scripts {
        for healer in HEALERS {
            match expected.check(&[Edit::Script(script)], healer) {
                Ok(1) => {}
                Ok(_) => wrong.push(format!("{script}\nnft refuses it")),
                Err(what) => wrong.push(format!("{script}\n{healer:?}: {what}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn any_edits() {
    let expected = Expected::new(EVERY_KIND);
    let (tried, made) = (Cell::new(0), Cell::new(0));
    let edits = (prop::collection::vec(edit(), 1..6), prop::sample::select(&HEALERS[..]));
    let outcome = TestRunner::new(random(60)).run(&edits, |(edits, healer)| {
        tried.set(tried.get() + edits.len());
        let done = expected.check(&edits, healer).map_err(TestCaseError::fail)?;
        made.set(made.get() + done);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(made.get() * 2 > tried.get(), "{} of {} edits were possible", made.get(), tried.get());
}
