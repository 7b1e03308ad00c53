//! kube-proxy's leftovers in this network namespace: found, told, and removed when told to. EDGE.
//!
//! In: nf_tables, iptables-legacy, rtnetlink, IPVS, /proc. Out: [`Found`], [`Outcome`].
//! Never: a rule, chain, table, address or process that is not kube-proxy's; a change by looking.

mod error;
mod ipvs;
mod kernel;
mod legacy;
mod messages;
mod names;
mod nftables;
mod processes;
mod removal;
mod report;
mod saved;
mod services;

pub use error::Error;
pub use ipvs::Ipvs;
pub use nftables::{Holdings, OwnTable};
pub use processes::{Place, Process};
pub use removal::{Because, Counts, Table};
pub use report::Outlook;

use kernel::Kernel;
use tokio::task::spawn_blocking;

/// What kube-proxy left, and whether it still runs.
#[derive(Debug, Default)]
pub struct Found {
    pub nftables: Holdings,
    /// Tables of iptables-legacy with chains of kube-proxy's; a rule's id is its text.
    pub legacy: Vec<Table<String>>,
    pub ipvs: Option<Ipvs>,
    pub running: Vec<Process>,
    /// What could not be looked at.
    pub unread: Vec<Error>,
}

impl Found {
    /// Whether there is anything to remove.
    pub fn is_clean(&self) -> bool {
        let nftables = &self.nftables;
        nftables.own.is_empty()
            && nftables.iptables.is_empty()
            && self.legacy.is_empty()
            && self.ipvs.is_none()
    }
}

/// What a removal did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub tables: usize,
    pub counts: Counts,
    /// IPVS services.
    pub services: usize,
    pub links: usize,
    /// What could not be removed, or was kept, and why.
    pub left: Vec<Error>,
}

/// On a thread of tokio's for blocking work. Where the runtime ends first, the work may never begin:
/// then nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// Looks everywhere in the network namespace of the calling thread. What cannot be looked at is
/// told in the result and keeps nothing else from being found.
///
/// Takes as long as the kernel takes to list what there is: 100,000 rules, about a second, on a
/// thread of tokio's for blocking work. Needs CAP_NET_ADMIN.
pub async fn find() -> Found {
    let looked = blocking(|| {
        let mut found = Found::default();
        match Kernel::open().and_then(|mut kernel| nftables::observe(&mut kernel)) {
            Ok(holdings) => found.nftables = holdings,
            Err(error) => found.unread.push(error),
        }
        let (legacy, unread) = legacy::observe();
        found.legacy = legacy;
        found.unread.extend(unread);
        found.running = processes::running();
        found
    });
    let mut found = looked.await;
    match ipvs::observe().await {
        Ok(ipvs) => found.ipvs = ipvs,
        Err(error) => found.unread.push(error),
    }
    found
}

/// Removes what was found. What cannot be removed is told in the result and keeps nothing else
/// from going. Connections that are established stay, but for those that IPVS forwards.
pub async fn remove(found: Found) -> Outcome {
    let Found { nftables: holdings, legacy: tables, ipvs, .. } = found;
    let removing = blocking(move || {
        let mut outcome = Outcome::default();
        if holdings != Holdings::default() {
            match Kernel::open() {
                Ok(mut kernel) => {
                    let removed = nftables::remove(&mut kernel, holdings);
                    outcome.tables += removed.tables;
                    outcome.count(removed.counts);
                    outcome.left.extend(removed.left);
                }
                Err(error) => outcome.left.push(error),
            }
        }
        let removed = legacy::remove(&tables);
        outcome.count(removed.counts);
        outcome.left.extend(removed.left);
        outcome
    });
    let mut outcome = removing.await;
    if let Some(ipvs) = ipvs {
        let removed = ipvs::remove(&ipvs).await;
        outcome.services += removed.services;
        outcome.links += removed.links;
        outcome.left.extend(removed.left);
    }
    outcome
}

impl Outcome {
    fn count(&mut self, counts: Counts) {
        self.counts.chains += counts.chains;
        self.counts.rules += counts.rules;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use caps::{CapSet, Capability};

    /// On a thread of its own, whose capabilities are nobody else's.
    fn without_privilege<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(work())
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn without_privilege_it_says_what_it_could_not_read() {
        let found = without_privilege(async || find().await);
        assert_eq!(found.nftables, Holdings::default());
        let told = found.lines(Outlook::Stay).join("\n");
        assert!(told.contains("nf_tables"), "{told}");
    }

    #[test]
    fn without_privilege_nothing_is_removed_and_it_says_so() {
        let counts = Counts { chains: 1, rules: 1 };
        let own = vec![OwnTable { family: Family::V4, counts }];
        let nftables = Holdings { own, iptables: Vec::new() };
        let found = Found { nftables, ..Found::default() };
        let outcome = without_privilege(async || remove(found).await);
        assert_eq!(outcome.removed(), None);
        assert!(!outcome.left.is_empty());
    }
}
