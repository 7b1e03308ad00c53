//! What is open, and what could not be opened.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The first pause before another try; each is as long as all before it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// IPv6 lets nobody bind to an address while it looks for duplicates (about two seconds, RFC 4862);
/// what takes longer is worth a word.
const SETTLING: Duration = Duration::from_secs(4);

/// Sockets by what they are for. Each key is open, refused, or unknown.
#[derive(Debug)]
pub struct Kept<K, S> {
    open: BTreeMap<K, S>,
    refused: BTreeMap<K, Refusal>,
    failures: u64,
}

#[derive(Debug)]
struct Refusal {
    since: Instant,
    next: Instant,
    told: bool,
}

/// How a try to open a socket ended.
#[derive(Debug)]
pub enum Tried {
    Opened,
    /// Open at last, after a refusal that was told.
    OpenedAtLast,
    /// To be told: the first time, or when it has lasted too long to be a matter of moments.
    Refused(Error),
    /// As before.
    StillRefused,
}

impl<K, S> Default for Kept<K, S> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), refused: BTreeMap::new(), failures: 0 }
    }
}

impl<K: Ord + Clone, S> Kept<K, S> {
    pub fn get(&self, key: &K) -> Option<&S> {
        self.open.get(key)
    }

    pub fn open(&self) -> impl Iterator<Item = (&K, &S)> {
        self.open.iter()
    }

    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Tries that have failed, but for those that an address which settles accounts for.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// All that were wanted and are not open.
    pub fn refused(&self) -> Vec<K> {
        self.refused.keys().cloned().collect()
    }

    /// When the next refused one is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.refused.values().map(|refusal| refusal.next).min()
    }

    /// Wanted no more. The socket is the caller's to close.
    pub fn remove(&mut self, key: &K) -> Option<S> {
        self.refused.remove(key);
        self.open.remove(key)
    }

    /// All but these are wanted no more. The sockets are the caller's to close.
    pub fn remove_others(&mut self, wanted: &BTreeSet<K>) -> Vec<S> {
        self.refused.retain(|key, _| wanted.contains(key));
        self.open.extract_if(.., |key, _| !wanted.contains(key)).map(|(_, socket)| socket).collect()
    }

    pub fn into_open(self) -> impl Iterator<Item = S> {
        self.open.into_values()
    }

    /// What came of a try to open what is not open.
    pub fn offer(&mut self, key: K, now: Instant, result: Result<S, Error>) -> Tried {
        match result {
            Ok(socket) => {
                let before = self.refused.remove(&key);
                self.open.insert(key, socket);
                match before {
                    Some(refusal) if refusal.told => Tried::OpenedAtLast,
                    _ => Tried::Opened,
                }
            }
            Err(error) => {
                let refusal = self.refused.entry(key).or_insert(Refusal {
                    since: now,
                    next: now,
                    told: false,
                });
                let lasted = now.saturating_duration_since(refusal.since);
                refusal.next = now + lasted.clamp(FIRST_PAUSE, LONGEST_PAUSE);
                let may_pass = matches!(error, Error::NoSuchAddress) && lasted < SETTLING;
                self.failures += u64::from(!may_pass);
                if refusal.told || may_pass {
                    return Tried::StillRefused;
                }
                refusal.told = true;
                Tried::Refused(error)
            }
        }
    }
}
