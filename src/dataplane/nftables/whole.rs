//! Sets that are compared with what they should hold as a whole: they are small, mostly empty. EDGE:
//! it asks the kernel.

use super::Nftables;
use super::changes::{Changes, Structure};
use super::error::Error;
use super::expr::Verdict;
use super::lower::{
    class_elements, fixed_class_elements, guard_elements, node_element, range_elements,
};
use super::set::{Bytes, Data, Element, Set, pinned_element, read_set_address};
use super::state::read_frontend;
use super::treatment::read_class;
use crate::model::{Family, Known};
use crate::planner::{FrontendAddress, FrontendKey, Plan, Scope};
use foldhash::{HashMap, HashSet};
use std::net::IpAddr;

/// Elements of `guarded` and `allowed` that a plan asks for.
pub(super) fn planned_guards(plan: &Plan) -> Vec<(Set, Element)> {
    let ranged = |known: &&std::sync::Arc<Known>| {
        let external = known.service.as_ref().and_then(|service| service.external());
        external.is_some_and(|external| !external.source_ranges.is_empty())
    };
    let services = plan.known.values().filter(ranged);
    services
        .filter_map(|known| plan.service_of(known))
        .flat_map(|service| guard_elements(&service))
        .collect()
}

/// Whether `observe` dumps the set anyway.
pub(super) fn is_dumped(set: Set) -> bool {
    set.is_remembered()
        || matches!(
            set,
            Set::Pinned(..)
                | Set::Nodes(_)
                | Set::Guarded(_)
                | Set::Allowed(_)
                | Set::Locals
                | Set::Classes
                | Set::Inners
                | Set::Exits
                | Set::Recorders
        )
}

impl Nftables {
    /// Adopts classes, and repairs the maps that lead to their chains.
    pub(super) fn observe_classes(&mut self, changes: &mut Changes) -> Result<(), Error> {
        let [classes, inners, exits, recorders] = [
            self.kernel.dump(Set::Classes)?,
            self.kernel.dump(Set::Inners)?,
            self.kernel.dump(Set::Exits)?,
            self.kernel.dump(Set::Recorders)?,
        ];
        let verdict = |of: &[Element], class: &Bytes| -> Option<Verdict> {
            match &of.iter().find(|element| element.key == *class)?.data {
                Data::Verdict(verdict) => Some(verdict.clone()),
                _ => None,
            }
        };
        for element in &classes {
            let Data::Verdict(entry) = &element.data else { continue };
            let number = element.key.as_slice().try_into().map(u32::from_ne_bytes);
            let (inner, departure) =
                (verdict(&inners, &element.key), verdict(&exits, &element.key));
            let key = read_class(entry, inner.as_ref(), departure.as_ref());
            if let (Ok(number), Some(key)) = (number, key) {
                self.state.classes.adopt(key, number);
            }
        }
        let mut wanted: Vec<(Set, Element)> = fixed_class_elements().into();
        wanted.extend(
            self.state.classes.iter().flat_map(|(key, number)| class_elements(key, number)),
        );
        for (set, seen) in [
            (Set::Classes, classes),
            (Set::Inners, inners),
            (Set::Exits, exits),
            (Set::Recorders, recorders),
        ] {
            let of_set = |element: &(Set, Element)| element.0 == set;
            let wanted: HashSet<&Element> =
                wanted.iter().filter(|e| of_set(e)).map(|(_, element)| element).collect();
            let held: HashSet<&Element> = seen.iter().collect();
            let gone = seen.iter().filter(|element| !wanted.contains(element));
            changes.overdue.extend(gone.map(|element| (set, element.clone())));
            let come = wanted.into_iter().filter(|element| !held.contains(element));
            changes.new_targets.extend(come.map(|element| (set, element.clone())));
        }
        Ok(())
    }

    pub(super) fn observe_ranges(
        &mut self,
        plan: &Plan,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let wanted = range_elements(&plan.node.service_ranges);
        for family in Family::BOTH {
            let set = Set::Ranges(family);
            let seen = self.kernel.dump(set)?;
            let wanted: Vec<&Element> =
                wanted.iter().filter(|(s, _)| *s == set).map(|(_, e)| e).collect();
            let same =
                seen.len() == wanted.len() && wanted.iter().all(|element| seen.contains(element));
            if !same {
                changes.structure.push(Structure::FlushSet(set));
                changes.new_targets.extend(wanted.into_iter().map(|e| (set, e.clone())));
            }
        }
        Ok(())
    }

    /// Where node ports answer.
    pub(super) fn observe_nodes(
        &mut self,
        plan: &Plan,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let wanted: Vec<_> =
            plan.node.node_port_addresses.iter().map(|address| node_element(*address)).collect();
        for family in Family::BOTH {
            let set = Set::Nodes(family);
            let extra = self.compare(set, of(set, &wanted), changes)?;
            let left =
                extra.iter().filter_map(|(set, element)| read_set_address(*set, &element.key));
            let left: Vec<IpAddr> = left.collect();
            self.remember_node_ports_at(&left, family)?;
            changes.removed.extend(extra);
        }
        Ok(())
    }

    /// Node ports that were answered at these addresses, and are not any more: frontends of the past,
    /// as those that no plan has.
    fn remember_node_ports_at(&mut self, left: &[IpAddr], family: Family) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        let set = Set::NodePorts(family);
        for element in self.kernel.dump(set)? {
            let Some(port) = read_frontend(set, &element.key) else { continue };
            let at =
                |address: &IpAddr| FrontendKey { at: FrontendAddress::Address(*address), ..port };
            self.former.extend(left.iter().map(at));
        }
        Ok(())
    }

    /// Who may ask where not everybody may. Returns what is too much: it goes when what it guards
    /// has gone.
    pub(super) fn observe_guards(
        &mut self,
        wanted: &[(Set, Element)],
        changes: &mut Changes,
    ) -> Result<Vec<(Set, Element)>, Error> {
        let about = |set: &Set| matches!(set, Set::Guarded(_) | Set::Allowed(_));
        let mut extra = Vec::new();
        for set in Set::ALL.into_iter().filter(about) {
            extra.extend(self.compare(set, of(set, wanted), changes)?);
        }
        Ok(extra)
    }

    /// Endpoints that pins may name.
    pub(super) fn observe_pinned(&mut self, changes: &mut Changes) -> Result<(), Error> {
        for (family, scope) in Family::BOTH
            .into_iter()
            .flat_map(|family| [Scope::Cluster, Scope::Local].map(|scope| (family, scope)))
        {
            let tokens = &self.state.tokens[family.index()][scope as usize];
            let wanted = tokens.iter().map(|(token, target)| pinned_element(*token, target));
            let wanted: Vec<Element> = wanted.collect();
            let extra = self.compare(Set::Pinned(family, scope), wanted, changes)?;
            changes.removed.extend(extra);
        }
        Ok(())
    }

    /// Returns what the set holds beside what it should.
    fn compare(
        &mut self,
        set: Set,
        wanted: Vec<Element>,
        changes: &mut Changes,
    ) -> Result<Vec<(Set, Element)>, Error> {
        let seen = self.kernel.dump(set)?.into_iter();
        let mut extra: HashMap<Bytes, Element> =
            seen.map(|element| (element.key.clone(), element)).collect();
        for element in wanted {
            match extra.remove(&element.key) {
                Some(held) if held.data == element.data => {}
                Some(_) => changes.replaced_targets.push((set, element)),
                None => changes.new_targets.push((set, element)),
            }
        }
        Ok(extra.into_values().map(|element| (set, element)).collect())
    }
}

fn of(set: Set, elements: &[(Set, Element)]) -> Vec<Element> {
    elements.iter().filter(|(of, _)| *of == set).map(|(_, element)| element.clone()).collect()
}
