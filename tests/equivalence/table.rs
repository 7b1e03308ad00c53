//! A table made of the changes that lowering asks for, as strict as the kernel.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use vipd::dataplane::nftables::changes::{Changes, Structure};
use vipd::dataplane::nftables::expr::{Expr, Find, Rule, Verdict};
use vipd::dataplane::nftables::layout::Hook;
use vipd::dataplane::nftables::lower::fixed_class_elements;
use vipd::dataplane::nftables::set::{Bytes, Data, Element, Set};
use vipd::dataplane::nftables::state::{Routed, State, moved_frontends};
use vipd::dataplane::nftables::types::Room;
use vipd::model::Family;
use vipd::planner::PlanDelta;

/// Begin or end of an interval: the same key may be both.
type Key = (Bytes, bool);

pub struct Chain {
    hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

#[derive(Default)]
pub struct Table {
    state: State,
    pub chains: HashMap<String, Chain>,
    pub sets: HashMap<Set, BTreeMap<Key, Data>>,
}

fn key(element: &Element) -> Key {
    (element.key.clone(), element.data == Data::IntervalEnd)
}

impl Table {
    pub fn new() -> Self {
        let mut table = Self::default();
        let structure = Set::ALL.map(|set| Structure::Set(set, Room::ANY)).into();
        let new_targets = fixed_class_elements().into();
        // Chains that the two lead to come with the first node plan, in the same transaction.
        table.commit(Changes { structure, new_targets, ..Changes::default() });
        table
    }

    /// With the next delta these addresses are led here by a route, or are no more.
    pub fn route(&mut self, come: &[IpAddr], gone: &[IpAddr]) {
        let gone = gone.iter().map(|address| (*address, Routed::Goes));
        self.state.routed_next.extend(gone);
        let come = come.iter().map(|address| (*address, Routed::Comes));
        self.state.routed_next.extend(come);
    }

    pub fn is_routed(&self, address: IpAddr) -> bool {
        self.state.routed.contains(&address)
    }

    /// One delta, as the dataplane applies it.
    pub fn apply(&mut self, delta: &PlanDelta) {
        let mut changes = Changes::default();
        self.state.take_overdue(&mut changes);
        self.state.take_routed(&mut changes);
        if let Some(node) = &delta.node {
            self.state.lower_node(node, &mut changes);
        }
        self.state.moved = moved_frontends(&delta.services);
        for service in &delta.services {
            let (old, new) = (service.old.as_deref(), service.new.as_deref());
            self.state.lower(&service.key, old, new, &mut changes);
        }
        self.state.keep_shared(&mut changes);
        self.commit(changes);
    }

    /// The base chains of a hook, in the order of their priorities.
    pub fn hooked(&self, number: u32) -> Vec<(String, Hook)> {
        let mut found: Vec<(String, Hook)> = self
            .chains
            .iter()
            .filter_map(|(name, chain)| Some((name.clone(), chain.hook.clone()?)))
            .filter(|(_, hook)| hook.number == number)
            .collect();
        found.sort_by_key(|(name, hook)| (hook.priority, name.clone()));
        found
    }

    /// As if all timeouts had passed.
    pub fn forget_pins(&mut self) {
        Family::BOTH.into_iter().for_each(|family| self.set(Set::Affinity(family)).clear());
    }

    fn commit(&mut self, changes: Changes) {
        for structure in changes.structure {
            match structure {
                Structure::Set(set, _) => drop(self.sets.insert(set, BTreeMap::new())),
                Structure::Chain(chain) => {
                    let made = Chain { hook: chain.hook, rules: chain.rules };
                    let before = self.chains.insert(chain.name.to_string(), made);
                    assert!(before.is_none(), "chain {} is there already", chain.name);
                }
                Structure::Rewrite(chain) => {
                    let known = self.chains.get_mut(&*chain.name).expect("a chain to rewrite");
                    known.rules = chain.rules;
                }
                Structure::FlushSet(set) => self.set(set).clear(),
                Structure::RemoveTable
                | Structure::Table
                | Structure::RemoveSet(_)
                | Structure::FlushChain(_) => unreachable!("not by lowering"),
            }
        }
        self.remove(changes.overdue);
        self.replace(changes.replaced_targets);
        self.add(changes.new_targets);
        self.replace(changes.replaced_frontends);
        self.add(changes.new_frontends);
        self.remove(changes.removed);
        for name in changes.removed_chains {
            assert!(self.chains.remove(&name).is_some(), "chain {name} is not there");
        }
        self.validate();
    }

    /// No chain leads back to itself, by whatever element, nor through too many others.
    fn validate(&self) {
        let mut heights = HashMap::new();
        for name in self.chains.keys() {
            let height = self.height(name, &mut heights);
            assert!(height <= 16, "EMLINK: NFT_JUMP_STACK_SIZE from {name} on");
        }
    }

    fn height<'a>(&'a self, name: &'a str, known: &mut HashMap<&'a str, Option<u32>>) -> u32 {
        if let Some(height) = known.get(name) {
            return height.unwrap_or_else(|| panic!("EMLINK: chain {name} leads to itself"));
        }
        known.insert(name, None);
        let rules = &self.chains.get(name).unwrap_or_else(|| panic!("no chain {name}")).rules;
        let mut next: Vec<&Verdict> = Vec::new();
        for expr in rules.iter().flat_map(|rule| &rule.0) {
            match expr {
                Expr::Verdict(verdict) => next.push(verdict),
                Expr::Lookup { set, find: Find::Data(0), .. } => {
                    let set = Set::by_name(set).expect("a set of the table");
                    next.extend(self.sets[&set].values().filter_map(|data| match data {
                        Data::Verdict(verdict) => Some(verdict),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        let chains = next.into_iter().filter_map(|verdict| match verdict {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(&**chain),
            Verdict::Accept | Verdict::Drop | Verdict::Return => None,
        });
        let height = 1 + chains.map(|chain| self.height(chain, known)).max().unwrap_or(0);
        known.insert(name, Some(height));
        height
    }

    fn set(&mut self, set: Set) -> &mut BTreeMap<Key, Data> {
        self.sets.get_mut(&set).expect("all sets are made at once")
    }

    fn remove(&mut self, elements: Vec<(Set, Element)>) {
        for (set, element) in elements {
            let removed = self.set(set).remove(&key(&element));
            assert!(removed.is_some(), "ENOENT: {set:?} {element:?}");
        }
    }

    fn add(&mut self, elements: Vec<(Set, Element)>) {
        for (set, element) in elements {
            if let Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) = &element.data {
                let known = self.chains.contains_key(&**chain) || *chain == "refuse";
                assert!(known, "ENOENT: chain {chain} of {element:?}");
            }
            let before = self.set(set).insert(key(&element), element.data.clone());
            assert!(before.is_none_or(|data| data == element.data), "EEXIST: {set:?} {element:?}");
        }
    }

    fn replace(&mut self, elements: Vec<(Set, Element)>) {
        self.remove(elements.clone());
        self.add(elements);
    }
}
