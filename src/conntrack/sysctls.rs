//! What the kernel's connection tracking is to be set to. PURE.
//!
//! In: the operator's wishes, the number of CPUs. Out: files, with the value each must have.
//! Never: a value that nobody asked for.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// More CPUs do not ask for a larger table than this; kube-proxy has the same limit since 1.36.
const MOST_BY_CPUS: u32 = 1_048_576;

/// Connection tracking as KubeProxyConfiguration's `conntrack` describes it. `None` leaves a value
/// as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// Entries for each online CPU, together 1,048,576 at most; 0 leaves the table's size alone.
    pub max_per_core: Option<u32>,
    /// Entries at least, however few CPUs there are.
    pub min: Option<u32>,
    /// How long an idle established TCP connection is known; 0 leaves it as it is, as with all
    /// timeouts. The kernel counts whole seconds.
    pub tcp_established: Option<Duration>,
    /// How long a TCP connection is known that one side has closed.
    pub tcp_close_wait: Option<Duration>,
    /// How long a UDP flow is known that was not answered.
    pub udp: Option<Duration>,
    /// How long a UDP flow is known that was answered.
    pub udp_stream: Option<Duration>,
    /// Only resets outside of the window make a TCP packet INVALID; `false` leaves it as it is.
    pub tcp_be_liberal: Option<bool>,
}

/// One value of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sysctl {
    Max,
    /// Of the hash table, for all network namespaces.
    Hashsize,
    TcpEstablished,
    TcpCloseWait,
    TcpBeLiberal,
    Udp,
    UdpStream,
}

impl Sysctl {
    /// Its file, from the root directory.
    pub fn path(self) -> &'static str {
        match self {
            Sysctl::Max => "proc/sys/net/netfilter/nf_conntrack_max",
            Sysctl::Hashsize => "sys/module/nf_conntrack/parameters/hashsize",
            Sysctl::TcpEstablished => "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established",
            Sysctl::TcpCloseWait => "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            Sysctl::TcpBeLiberal => "proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal",
            Sysctl::Udp => "proc/sys/net/netfilter/nf_conntrack_udp_timeout",
            Sysctl::UdpStream => "proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream",
        }
    }
}

/// What one value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub sysctl: Sysctl,
    pub value: u64,
    pub bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Exactly,
    /// More is as good: somebody else may need it.
    AtLeast,
}

impl Wanted {
    pub fn is_met_by(self, current: u64) -> bool {
        match self.bound {
            Bound::Exactly => current == self.value,
            Bound::AtLeast => current >= self.value,
        }
    }
}

impl Sysctls {
    /// What is asked for on a machine with so many online CPUs, in the order of writing: the hash
    /// table comes right behind the number of entries that it is for.
    pub fn wanted(&self, cpus: u32) -> Vec<Wanted> {
        let max = self.max(cpus);
        let timeout = |wish: Option<Duration>| wish.and_then(seconds);
        let liberal = self.tcp_be_liberal.filter(|liberal| *liberal).map(u64::from);
        [
            (Sysctl::Max, Bound::AtLeast, max),
            // Chains of four entries on average in a full table, as the kernel's own default.
            (Sysctl::Hashsize, Bound::AtLeast, max.map(|max| max / 4)),
            (Sysctl::TcpEstablished, Bound::Exactly, timeout(self.tcp_established)),
            (Sysctl::TcpCloseWait, Bound::Exactly, timeout(self.tcp_close_wait)),
            (Sysctl::TcpBeLiberal, Bound::Exactly, liberal),
            (Sysctl::Udp, Bound::Exactly, timeout(self.udp)),
            (Sysctl::UdpStream, Bound::Exactly, timeout(self.udp_stream)),
        ]
        .into_iter()
        .filter_map(|(sysctl, bound, value)| Some(Wanted { sysctl, value: value?, bound }))
        .collect()
    }

    fn max(&self, cpus: u32) -> Option<u64> {
        if self.max_per_core == Some(0) {
            return None;
        }
        let by_cpus = self.max_per_core.unwrap_or(0).saturating_mul(cpus).min(MOST_BY_CPUS);
        let max = by_cpus.max(self.min.unwrap_or(0));
        (max > 0).then_some(max.into())
    }
}

/// Whole seconds; the kernel would take a part of one for 0, which ends a connection at once.
fn seconds(timeout: Duration) -> Option<u64> {
    (!timeout.is_zero()).then(|| timeout.as_secs().max(1))
}

/// How many CPUs a kernel list such as `0-3,8,10-11` names; `None` if it is none.
pub(super) fn count_cpus(list: &str) -> Option<u32> {
    let mut count: u32 = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::nothing_asked(None, None, 4, None)]
    #[case::by_cpus(Some(32_768), Some(131_072), 8, Some(262_144))]
    #[case::at_least(Some(32_768), Some(131_072), 2, Some(131_072))]
    #[case::without_a_least(Some(1000), None, 3, Some(3000))]
    #[case::only_a_least(None, Some(5000), 3, Some(5000))]
    #[case::zero_leaves_it(Some(0), Some(131_072), 8, None)]
    #[case::many_cpus(Some(32_768), Some(131_072), 256, Some(1_048_576))]
    #[case::beyond_u32(Some(u32::MAX), None, 256, Some(1_048_576))]
    #[case::the_least_is_not_capped(Some(32_768), Some(2_000_000), 256, Some(2_000_000))]
    #[case::two_zeros(Some(0), Some(0), 8, None)]
    #[case::a_least_of_zero(None, Some(0), 8, None)]
    fn entries(
        #[case] max_per_core: Option<u32>,
        #[case] min: Option<u32>,
        #[case] cpus: u32,
        #[case] max: Option<u64>,
    ) {
        let wanted = Sysctls { max_per_core, min, ..Sysctls::default() }.wanted(cpus);
        let at_least = |sysctl, value| Wanted { sysctl, value, bound: Bound::AtLeast };
        let expected =
            max.map(|max| vec![at_least(Sysctl::Max, max), at_least(Sysctl::Hashsize, max / 4)]);
        assert_eq!(wanted, expected.unwrap_or_default());
    }

    #[rstest]
    #[case(Duration::ZERO, None)]
    #[case(Duration::from_millis(1), Some(1))]
    #[case(Duration::from_millis(1999), Some(1))]
    #[case(Duration::from_secs(86_400), Some(86_400))]
    fn timeouts(#[case] asked: Duration, #[case] value: Option<u64>) {
        let asked = Some(asked);
        for (sysctls, sysctl) in [
            (Sysctls { tcp_established: asked, ..Sysctls::default() }, Sysctl::TcpEstablished),
            (Sysctls { tcp_close_wait: asked, ..Sysctls::default() }, Sysctl::TcpCloseWait),
            (Sysctls { udp: asked, ..Sysctls::default() }, Sysctl::Udp),
            (Sysctls { udp_stream: asked, ..Sysctls::default() }, Sysctl::UdpStream),
        ] {
            let expected = value.map(|value| Wanted { sysctl, value, bound: Bound::Exactly });
            assert_eq!(sysctls.wanted(4), Vec::from_iter(expected));
        }
    }

    #[rstest]
    #[case(None, &[])]
    #[case(Some(false), &[])]
    #[case(Some(true), &[Wanted { sysctl: Sysctl::TcpBeLiberal, value: 1, bound: Bound::Exactly }])]
    fn liberal(#[case] tcp_be_liberal: Option<bool>, #[case] expected: &[Wanted]) {
        assert_eq!(Sysctls { tcp_be_liberal, ..Sysctls::default() }.wanted(4), expected);
    }

    #[rstest]
    #[case(Bound::AtLeast, 99, false)]
    #[case(Bound::AtLeast, 100, true)]
    #[case(Bound::AtLeast, 101, true)]
    #[case(Bound::Exactly, 99, false)]
    #[case(Bound::Exactly, 100, true)]
    #[case(Bound::Exactly, 101, false)]
    fn bounds(#[case] bound: Bound, #[case] current: u64, #[case] met: bool) {
        let wanted = Wanted { sysctl: Sysctl::Max, value: 100, bound };
        assert_eq!(wanted.is_met_by(current), met);
    }

    #[rstest]
    #[case("0\n", Some(1))]
    #[case("0-1\n", Some(2))]
    #[case("0-3,8,10-11", Some(7))]
    #[case("", None)]
    #[case("3-1", None)]
    #[case("0-", None)]
    #[case("0-4294967295", None)]
    #[case("all", None)]
    fn cpus(#[case] list: &str, #[case] count: Option<u32>) {
        assert_eq!(count_cpus(list), count);
    }
}
