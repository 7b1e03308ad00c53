//! What the tries of one client saw, and sentences about it.
//!
//! In: outcomes, and what `vipd trace` says about the same packet. Out: a panic that tells
//! what was seen where a sentence does not hold.
//! Never: traffic of its own.

use super::clients::{Ending, Outcome, Tries};
use super::plan::{Family, Node, Who};
use super::servers::Udp;
use super::trace::{Trace, Verdict};
use super::vipd::Carrier;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A refusal that takes longer came with a second try of the kernel, not at once.
const AT_ONCE: Duration = Duration::from_millis(300);

pub struct Replies {
    pub who: Who,
    pub tries: Tries,
    pub outcomes: Vec<Outcome>,
    /// What vipd says must happen, where it runs.
    pub trace: Option<Trace>,
    /// Of Services that do not say so themselves.
    pub carrier: Carrier,
}

/// One answer, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub server: &'a str,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub rest: &'a str,
}

impl Replies {
    pub fn answers(&self) -> Vec<Answer<'_>> {
        let answer = |outcome| match outcome {
            &Outcome { ending: Ending::Answer { ref server, peer, local, ref rest }, .. } => {
                Some(Answer { server, peer, local, rest })
            }
            _ => None,
        };
        self.outcomes.iter().filter_map(answer).collect()
    }

    /// How often each server answered.
    pub fn servers(&self) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for answer in self.answers() {
            *servers.entry(answer.server.to_owned()).or_insert(0) += 1;
        }
        servers
    }

    /// Tries without an answer.
    pub fn failures(&self) -> usize {
        self.outcomes.len() - self.answers().len()
    }

    #[track_caller]
    pub fn check(&self, holds: bool, wanted: impl fmt::Display) {
        assert!(holds, "{self}; wanted {wanted}");
    }

    #[track_caller]
    pub fn reached(self) -> Self {
        self.check(self.failures() == 0 && !self.outcomes.is_empty(), "an answer each time");
        self.agrees_with_trace();
        self
    }

    /// Exactly these servers answered, each at least once.
    #[track_caller]
    pub fn only<const N: usize>(self, names: [Who; N]) -> Self {
        self.answered_by(names);
        self.agrees_with_trace();
        self
    }

    /// The same, past every service.
    #[track_caller]
    pub fn left_to<const N: usize>(self, names: [Who; N]) -> Self {
        self.answered_by(names);
        self.expect_verdict(Verdict::Pass);
        self.source_kept()
    }

    #[track_caller]
    fn answered_by<const N: usize>(&self, names: [Who; N]) {
        let wanted: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        let seen: BTreeSet<String> = self.servers().into_keys().collect();
        self.check(seen == wanted && self.failures() == 0, format_args!("exactly {wanted:?}"));
    }

    /// Each of these servers got its even share, within five sigma: of the thousands of times that a
    /// soak asks, four would be too few for once or twice.
    #[track_caller]
    pub fn spread<const N: usize>(self, names: [Who; N]) -> Self {
        let this = self.only(names);
        #[expect(clippy::cast_precision_loss, reason = "counts of tries are far below 2^52")]
        let (tries, share) = (this.outcomes.len() as f64, 1.0 / N as f64);
        let slack = 5.0 * (tries * share * (1.0 - share)).sqrt();
        #[expect(clippy::cast_precision_loss, reason = "counts of tries are far below 2^52")]
        let even =
            this.servers().values().all(|count| (*count as f64 - tries * share).abs() <= slack);
        this.check(even, format_args!("{:.0} ± {slack:.0} each", tries * share));
        this
    }

    /// One server answered all of it: which.
    #[track_caller]
    pub fn one_server(self) -> Who {
        let this = self.reached();
        let servers = this.servers();
        this.check(servers.len() == 1, "one and the same server");
        Who::named(servers.keys().next().expect("one")).expect("servers have names of the plan")
    }

    /// The servers saw the client's own address; where vipd opens the connection to them, the node's.
    #[track_caller]
    pub fn source_kept(self) -> Self {
        let relayed = self.trace.as_ref().is_some_and(Trace::is_relayed);
        if relayed && self.carrier == Carrier::Relay {
            return self.masqueraded();
        }
        let kept = self.answers().iter().all(|answer| answer.peer.ip() == self.tries.from);
        self.check(kept, format_args!("the client's own address {}", self.tries.from));
        self
    }

    /// The servers saw the node's first address.
    #[track_caller]
    pub fn masqueraded(self) -> Self {
        let node = Family::of(self.tries.from).address(Node);
        let all = self.answers().iter().all(|answer| answer.peer.ip() == node);
        self.check(all, format_args!("masqueraded to {node}"));
        self
    }

    /// The servers saw an address of somebody else, which of the node's is left open.
    #[track_caller]
    pub fn source_replaced(self) -> Self {
        let replaced = self.answers().iter().all(|answer| answer.peer.ip() != self.tries.from);
        self.check(replaced, format_args!("another address than the client's {}", self.tries.from));
        self
    }

    /// The servers were reached on this port of theirs.
    #[track_caller]
    pub fn on_port(self, port: u16) -> Self {
        let all = self.answers().iter().all(|answer| answer.local.port() == port);
        self.check(all, format_args!("endpoint port {port}"));
        self
    }

    #[track_caller]
    pub fn refused(self) -> Self {
        let refused = |one: &Outcome| one.ending == Ending::Refused && one.took < AT_ONCE;
        self.check(self.outcomes.iter().all(refused), format_args!("refused within {AT_ONCE:?}"));
        self.expect_verdict(Verdict::Reject);
        self
    }

    /// Nothing came back: no SYN-ACK, reset or ICMP error, since each would end a try. A
    /// datagram that the node drops on its own way out is told to its sender, as EPERM.
    #[track_caller]
    pub fn dropped(self) -> Self {
        let own = self.who == Node && self.tries.proto == Udp;
        let silent =
            |one: &Outcome| one.ending == Ending::Timeout || own && one.ending == Ending::Refused;
        self.check(self.outcomes.iter().all(silent), "silence");
        self.expect_verdict(Verdict::Drop);
        self
    }

    #[track_caller]
    fn expect_verdict(&self, verdict: Verdict) {
        if let Some(trace) = &self.trace {
            self.check(
                trace.verdict == verdict,
                format_args!("that vipd trace agrees; it says {trace:?}"),
            );
        }
    }

    /// Every endpoint that answered is one that vipd names, with the same masquerading. (That
    /// each named one answers is for those who look at the spread.)
    #[track_caller]
    fn agrees_with_trace(&self) {
        let Some(trace) = &self.trace else { return };
        self.expect_verdict(Verdict::Forward);
        for answer in self.answers() {
            let masqueraded = answer.peer.ip() != self.tries.from;
            let named = trace.endpoints.iter().find(|one| one.address == answer.local);
            self.check(
                named.is_some_and(|one| one.masquerade == masqueraded),
                format_args!("that vipd trace agrees on {answer:?}; it says {trace:?}"),
            );
        }
    }

    /// vipd names exactly the endpoints that answered.
    #[track_caller]
    pub fn all_of_trace(self) -> Self {
        if let Some(trace) = &self.trace {
            let seen: BTreeSet<SocketAddr> =
                self.answers().iter().map(|answer| answer.local).collect();
            let named: BTreeSet<SocketAddr> =
                trace.endpoints.iter().map(|one| one.address).collect();
            self.check(
                seen == named,
                format_args!("all endpoints that vipd trace names: {named:?}"),
            );
        }
        self
    }

    /// The addresses that servers saw.
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        self.answers().iter().map(|answer| answer.peer.ip()).collect()
    }
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tries { proto, to, .. } = &self.tries;
        write!(f, "{} {} → {to}: ", self.who, proto.kubernetes())?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in &self.outcomes {
            let what = match &outcome.ending {
                Ending::Answer { server, local, .. } => format!("{server}:{}", local.port()),
                other => format!("{other:?}"),
            };
            *counts.entry(what).or_insert(0) += 1;
        }
        let slowest = self.outcomes.iter().map(|one| one.took).max().unwrap_or_default();
        write!(f, "{counts:?}, seen as {:?}, slowest {slowest:.0?}", self.peers())
    }
}
