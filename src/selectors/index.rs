//! Names by `key=value` pairs.
//!
//! In: pairs, and the names that go with them. Out: the names of a pair, sorted.
//! Never: a pair without a name.

use std::collections::{BTreeMap, BTreeSet};

/// Many names to a pair, and many pairs to a name.
#[derive(Debug, Clone)]
pub(super) struct Index<K>(BTreeMap<Box<str>, BTreeSet<K>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Index<K> {
    pub(super) fn get(&self, pair: &str) -> impl Iterator<Item = &K> {
        self.0.get(pair).into_iter().flatten()
    }

    /// How many names a pair has.
    pub(super) fn count(&self, pair: &str) -> usize {
        self.0.get(pair).map_or(0, BTreeSet::len)
    }

    pub(super) fn insert(&mut self, pair: &str, name: &K) {
        match self.0.get_mut(pair) {
            Some(names) => {
                names.insert(name.clone());
            }
            None => {
                self.0.insert(pair.into(), BTreeSet::from([name.clone()]));
            }
        }
    }

    /// Harmless if it is not there.
    pub(super) fn remove(&mut self, pair: &str, name: &K) {
        let Some(names) = self.0.get_mut(pair) else { return };
        names.remove(name);
        if names.is_empty() {
            self.0.remove(pair);
        }
    }
}
